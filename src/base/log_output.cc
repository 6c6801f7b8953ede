#include "base/log_output.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>

#include "base/threads.h"

namespace lorax {
namespace {

// How often a thread that waits for its descriptor looks whether it should give up.
constexpr int kPollMs = 50;
// Kept for a line beside its bytes.
constexpr size_t kLineOverhead = 64;

}  // namespace

// The output and its thread hold it, whichever lives longer.
struct LogOutput::State {
  State(int descriptor, Notice lost_notice, size_t bytes)
      : fd(descriptor), notice(std::move(lost_notice)), most_bytes(bytes) {}

  const int fd;
  const Notice notice;
  const size_t most_bytes;

  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable ended_wake;
  // Guarded by mutex:
  std::deque<std::string> queue;
  size_t bytes = 0;
  uint64_t lost = 0;  // since the last notice
  bool closing = false;
  bool ended = false;

  std::atomic<uint64_t> dropped{0};
  std::atomic<bool> given_up{false};
  // Of the thread alone: a line was cut off, and the next must not continue it.
  bool in_line = false;

  static size_t cost(const std::string& line) { return line.size() + kLineOverhead; }

  void lose(uint64_t lines) {
    lost += lines;
    dropped.fetch_add(lines, std::memory_order_relaxed);
  }

  void run();
  bool write_line(std::string& line);
  bool write_bytes(std::string_view text);
};

void LogOutput::State::run() {
  std::unique_lock lock(mutex);
  while (true) {
    wake.wait(lock, [this] { return closing || !queue.empty(); });
    if (queue.empty() || given_up) break;
    std::string line = std::move(queue.front());
    queue.pop_front();
    bytes -= cost(line);
    const uint64_t gap = std::exchange(lost, 0);
    lock.unlock();
    bool told = true;
    bool written = false;
    try {
      if (gap > 0) {
        std::string text = notice(gap);
        told = write_line(text);
      }
      written = told && write_line(line);
    } catch (...) {  // out of memory
      told = false;
    }
    lock.lock();
    if (!told) lost += gap;
    if (!written) lose(1);
  }
  ended = true;
  ended_wake.notify_all();
}

bool LogOutput::State::write_line(std::string& line) {
  line += '\n';
  if (in_line) line.insert(0, 1, '\n');
  return write_bytes(line);
}

// False if the descriptor does not take them, or is not waited for any more.
bool LogOutput::State::write_bytes(std::string_view text) {
  while (!text.empty()) {
    pollfd ready = {.fd = fd, .events = POLLOUT, .revents = 0};
    const int found = poll(&ready, 1, kPollMs);
    if (given_up) return false;
    if (found == 0 || (found < 0 && errno == EINTR)) continue;
    const ssize_t written = ::write(fd, text.data(), std::min<size_t>(text.size(), PIPE_BUF));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      std::this_thread::sleep_for(std::chrono::milliseconds(kPollMs));
      continue;
    }
    if (written <= 0) return false;
    text.remove_prefix(static_cast<size_t>(written));
    in_line = !text.empty();
  }
  return true;
}

LogOutput::LogOutput(int fd, Notice notice, size_t queue_bytes)
    : state_(std::make_shared<State>(fd, std::move(notice), queue_bytes)) {
  // Signals go to the threads of the program that wait for them.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    start_thread("the log", [state = state_] { state->run(); }).detach();
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

LogOutput::~LogOutput() { close(std::chrono::steady_clock::now()); }

void LogOutput::write(std::string line) noexcept {
  State& state = *state_;
  try {
    const std::lock_guard lock(state.mutex);
    if (state.closing || State::cost(line) > state.most_bytes) return state.lose(1);
    while (state.bytes + State::cost(line) > state.most_bytes) {
      state.bytes -= State::cost(state.queue.front());
      state.queue.pop_front();
      state.lose(1);
    }
    const size_t cost = State::cost(line);
    state.queue.push_back(std::move(line));
    state.bytes += cost;
    state.wake.notify_one();
  } catch (...) {  // out of memory
    state.dropped.fetch_add(1, std::memory_order_relaxed);
  }
}

uint64_t LogOutput::dropped() const noexcept {
  return state_->dropped.load(std::memory_order_relaxed);
}

void LogOutput::close(std::chrono::steady_clock::time_point deadline) noexcept {
  State& state = *state_;
  std::unique_lock lock(state.mutex);
  state.closing = true;
  state.wake.notify_one();
  if (state.ended_wake.wait_until(lock, deadline, [&] { return state.ended; })) return;
  state.given_up = true;
  // A thread that only waits for its descriptor ends soon; any other is not waited for.
  state.ended_wake.wait_for(lock, std::chrono::milliseconds(3 * kPollMs),
                            [&] { return state.ended; });
}

}  // namespace lorax
