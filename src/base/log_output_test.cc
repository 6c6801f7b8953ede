#include "base/log_output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/standard_files.h"

namespace lorax {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

std::string notice(uint64_t lines) { return fmt::format("lost {}", lines); }

class LogOutputTest : public testing::Test {
 protected:
  void SetUp() override {
    signal(SIGPIPE, SIG_IGN);
    ASSERT_EQ(pipe(ends_.data()), 0);
    fcntl(ends_[1], F_SETPIPE_SZ, 4096);
    fcntl(ends_[0], F_SETFL, O_NONBLOCK);
  }
  void TearDown() override {
    close_end(0);
    close_end(1);
  }

  void close_end(size_t end) {
    if (ends_[end] >= 0) close(ends_[end]);
    ends_[end] = -1;
  }

  // All that has come so far.
  std::string read_all() {
    std::string text;
    std::array<char, 4096> buffer;
    while (true) {
      const ssize_t bytes = read(ends_[0], buffer.data(), buffer.size());
      if (bytes <= 0) return text;
      text.append(buffer.data(), static_cast<size_t>(bytes));
    }
  }
  // What comes until it ends with `end`; gives up after ten seconds.
  std::string read_until(const std::string& end) {
    std::string text;
    const auto deadline = Clock::now() + std::chrono::seconds(10);
    while (!text.ends_with(end) && Clock::now() < deadline) {
      text += read_all();
      std::this_thread::sleep_for(milliseconds(1));
    }
    return text;
  }

  std::array<int, 2> ends_ = {-1, -1};
};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  size_t begin = 0;
  for (size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    lines.push_back(text.substr(begin, end - begin));
  }
  return lines;
}

TEST_F(LogOutputTest, LinesInOrderAndAllBeforeTheEnd) {
  fcntl(ends_[1], F_SETPIPE_SZ, 65'536);
  std::string expected;
  {
    LogOutput output(ends_[1], notice);
    for (int i = 0; i < 100; ++i) {
      output.write(fmt::format("line {}", i));
      expected += fmt::format("line {}\n", i);
    }
    output.close(Clock::now() + std::chrono::seconds(10));
    output.write("too late");
  }
  EXPECT_EQ(read_all(), expected);
}

// Nobody reads: writers go on, the newest lines are kept, and what is lost is said in its place.
TEST_F(LogOutputTest, AnUnreadPipeLosesTheOldestLinesAndSaysSo) {
  LogOutput output(ends_[1], notice, /*queue_bytes=*/16'384);
  const std::string filler(500, 'x');
  constexpr int kLines = 2'000;
  for (int i = 0; i < kLines; ++i) output.write(fmt::format("{} {}", i, filler));
  EXPECT_GT(output.dropped(), 0u);
  const std::vector<std::string> lines =
      lines_of(read_until(fmt::format("{} {}\n", kLines - 1, filler)));
  int next = 0;
  uint64_t lost = 0;
  for (const std::string& line : lines) {
    if (line.starts_with("lost ")) {
      lost += std::stoul(line.substr(5));
      next += std::stoi(line.substr(5));
    } else {
      EXPECT_EQ(line, fmt::format("{} {}", next++, filler));
    }
  }
  EXPECT_EQ(next, kLines);
  EXPECT_EQ(lost, output.dropped());
  const uint64_t before = output.dropped();
  output.write("after");
  EXPECT_EQ(read_until("after\n"), "after\n");
  EXPECT_EQ(output.dropped(), before);
}

TEST_F(LogOutputTest, AnUnreadPipeHoldsUpTheEndForNoLongerThanAsked) {
  const Clock::time_point start = Clock::now();
  {
    LogOutput output(ends_[1], notice);
    for (int i = 0; i < 100; ++i) output.write(std::string(1'000, 'x'));
    output.close(Clock::now() + milliseconds(100));
  }
  EXPECT_LT(Clock::now() - start, std::chrono::seconds(5));
}

// The flag is of the file description, which other processes share.
TEST_F(LogOutputTest, TheDescriptorStaysAsItIs) {
  const int flags = fcntl(ends_[1], F_GETFL);
  LogOutput output(ends_[1], notice);
  output.write("a");
  EXPECT_EQ(read_until("a\n"), "a\n");
  EXPECT_EQ(fcntl(ends_[1], F_GETFL), flags);
}

TEST_F(LogOutputTest, AReaderThatHasGoneIsCounted) {
  LogOutput output(ends_[1], notice);
  close_end(0);
  for (int i = 0; i < 10; ++i) output.write("a");
  output.close(Clock::now() + std::chrono::seconds(10));
  EXPECT_EQ(output.dropped(), 10u);
}

TEST(LogOutputFileTest, AFullDiskIsCounted) {
  const int full = open("/dev/full", O_WRONLY);
  ASSERT_GE(full, 0);
  LogOutput output(full, notice);
  output.write("a");
  output.close(Clock::now() + std::chrono::seconds(10));
  EXPECT_EQ(output.dropped(), 1u);
  close(full);
}

TEST_F(LogOutputTest, LinesLongerThanAPipeTakesAtOnce) {
  LogOutput output(ends_[1], notice);
  const std::string line(100'000, 'y');
  output.write(line);
  output.write("z");
  EXPECT_EQ(read_until("z\n"), line + "\nz\n");
  EXPECT_EQ(output.dropped(), 0u);
}

TEST_F(LogOutputTest, ManyWriters) {
  LogOutput output(ends_[1], notice);
  std::vector<std::thread> writers;
  for (int i = 0; i < 4; ++i) {
    writers.emplace_back([&output] {
      for (int n = 0; n < 500; ++n) output.write("0123456789");
    });
  }
  std::string text;
  while (text.size() < 4 * 500 * 11) text += read_until("\n");
  for (std::thread& writer : writers) writer.join();
  for (const std::string& line : lines_of(text)) EXPECT_EQ(line, "0123456789");
}

TEST_F(LogOutputTest, TheLastWordsOfAProcessWaitForNobody) {
  const int before = dup(STDERR_FILENO);
  dup2(ends_[1], STDERR_FILENO);
  const Clock::time_point start = Clock::now();
  print_error(std::string(50'000, 'x'));
  const auto taken = Clock::now() - start;
  dup2(before, STDERR_FILENO);
  close(before);
  EXPECT_LT(taken, std::chrono::seconds(5));
  EXPECT_EQ(read_all(), std::string(4'096, 'x'));
}

// A CHECK that fails must not keep its process alive.
TEST_F(LogOutputTest, AFailedCheckWaitsForNobody) {
  std::array<char, 4096> full = {};
  ASSERT_EQ(write(ends_[1], full.data(), full.size()), 4096);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends_[1], STDERR_FILENO);
    alarm(20);
    open_standard_files();
    LORAX_CHECK(false, "on purpose");
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGABRT);
}

}  // namespace
}  // namespace lorax
