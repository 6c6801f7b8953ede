#include "server/observe/log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>

#include "formats/json_file.h"

namespace lorax {
namespace {

constexpr std::chrono::system_clock::time_point kTime{std::chrono::milliseconds(1'769'860'800'042)};

// A log whose two outputs are one pipe.
class LogTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(pipe(ends_.data()), 0); }
  void TearDown() override {
    for (int end : ends_) close(end);
  }

  // What `use` leaves in it.
  template <typename Use>
  std::string lines_of(LogLevel level, LogFormat format, Use use) {
    {
      Log log({level, format, ends_[1], ends_[1], [] { return kTime; }});
      use(log);
    }
    std::array<char, 1 << 16> buffer;
    // Never empty, so that reading does not wait.
    EXPECT_EQ(write(ends_[1], "|", 1), 1);
    const ssize_t bytes = read(ends_[0], buffer.data(), buffer.size());
    return std::string(buffer.data(), static_cast<size_t>(bytes - 1));
  }

  std::array<int, 2> ends_ = {-1, -1};
};

TEST_F(LogTest, EveryLineHasTimeAndLevel) {
  EXPECT_EQ(lines_of(LogLevel::kDebug, LogFormat::kText,
                     [](Log& log) {
                       log.debug("a");
                       log.info("b");
                       log.warning("c");
                       log.error("d");
                     }),
            "2026-01-31T12:00:00.042Z debug a\n"
            "2026-01-31T12:00:00.042Z info b\n"
            "2026-01-31T12:00:00.042Z warning c\n"
            "2026-01-31T12:00:00.042Z error d\n");
}

TEST_F(LogTest, LevelsLeaveOut) {
  EXPECT_EQ(lines_of(LogLevel::kError, LogFormat::kText,
                     [](Log& log) {
                       log.warning("c");
                       log.print(LogLevel::kInfo, "line");
                       log.print(LogLevel::kError, "last");
                     }),
            "last\n");
}

TEST_F(LogTest, Json) {
  const std::string line =
      lines_of(LogLevel::kInfo, LogFormat::kJson, [](Log& log) { log.info("a \"b\"\n\xff"); });
  EXPECT_EQ(line, R"({"time":"2026-01-31T12:00:00.042Z","level":"info","message":"a \"b\"\\x0a)"
                  "\xEF\xBF\xBD\"}\n");
  parse_json(line, "line");
}

TEST_F(LogTest, AWarningOfManyFilesComesOncePerCause) {
  const auto use = [](Log& log) {
    for (int i = 0; i < 100; ++i) {
      log.warn_once(fmt::format("dir/a{}: base is \"m{}\" and rank {}", i, i, i));
      log.warn_once(fmt::format("dir/a{}: has no head", i));
    }
  };
  EXPECT_EQ(lines_of(LogLevel::kInfo, LogFormat::kText, use),
            "2026-01-31T12:00:00.042Z warning dir/a0: base is \"m0\" and rank 0 (others like it: "
            "--log-level debug)\n"
            "2026-01-31T12:00:00.042Z warning dir/a0: has no head (others like it: --log-level "
            "debug)\n");
  const std::string all = lines_of(LogLevel::kDebug, LogFormat::kText, use);
  EXPECT_EQ(std::ranges::count(all, '\n'), 200);
}

// Should the texts of one cause differ from file to file after all, they end.
TEST_F(LogTest, CausesAreBounded) {
  const std::string all = lines_of(LogLevel::kInfo, LogFormat::kText, [](Log& log) {
    for (int i = 0; i < 1000; ++i) log.warn_once("file: " + std::string(i, 'x'));
  });
  EXPECT_EQ(std::ranges::count(all, '\n'), 128);
}

TEST(LoggableTest, NothingSteersATerminalOrEndsALine) {
  EXPECT_EQ(loggable("a\r\nb\x1b[31m\x7f\0c"), "a\\x0d\\x0ab\\x1b[31m\\x7f");
  EXPECT_EQ(loggable("\xc2\x9b"
                     "2J \xe2\x80\xa8 \xc3\xa4"),
            "\\xc2\\x9b2J \\xe2\\x80\\xa8 \xc3\xa4");
  EXPECT_EQ(loggable("\xff\xc3"), "\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(loggable_word("a 200 b"), "a\\x20200\\x20b");
  EXPECT_EQ(loggable_word(""), "-");
}

TEST(LoggableTest, CutsAtACharacter) {
  EXPECT_EQ(loggable("abc\xc3\xa4", 5), "abc\xc3\xa4");
  EXPECT_EQ(loggable("abc\xc3\xa4", 4), "abc...");
  EXPECT_EQ(loggable(std::string(1 << 20, 'a'), 10), "aaaaaaaaaa...");
}

}  // namespace
}  // namespace lorax
