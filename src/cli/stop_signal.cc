#include "cli/stop_signal.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <system_error>

#include "base/error.h"

namespace lorax::cli {
namespace {

constexpr std::array<int, 3> kSignals = {SIGTERM, SIGINT, SIGHUP};

// A handler may do little more than write to a pipe, which does not block.
int write_end = -1;
std::atomic<bool> stopping = false;
static_assert(std::atomic<bool>::is_always_lock_free);

void send(int signal) {
  const auto byte = static_cast<unsigned char>(signal);
  [[maybe_unused]] const ssize_t written = write(write_end, &byte, 1);
}

void forward(int signal) {
  const int saved = errno;
  if (!stopping.exchange(true)) {
    send(signal);
  } else if (signal == SIGINT) {
    ::signal(SIGINT, SIG_DFL);
    ::raise(SIGINT);  // once this handler is through
  }
  errno = saved;
}

bool is_ignored(int signal) {
  struct sigaction action = {};
  return sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

void handle(void (*handler)(int), int flags) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  sigemptyset(&action.sa_mask);
  for (int signal : kSignals) {
    if (signal == SIGHUP && is_ignored(signal)) continue;
    sigaction(signal, &action, nullptr);
  }
}

}  // namespace

StopSignal::StopSignal() {
  std::array<int, 2> ends = {-1, -1};
  if (pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) {
    fail("cannot wait for signals: {}", std::generic_category().message(errno));
  }
  read_end_ = ends[0];
  write_end = ends[1];
  stopping = false;
}

void StopSignal::start() { handle(forward, SA_RESTART); }

StopSignal::~StopSignal() {
  handle(SIG_DFL, 0);
  close(read_end_);
  close(write_end);
}

int StopSignal::wait() {
  while (true) {
    if (const int signal = wait_for(std::chrono::hours(24)); signal >= 0) return signal;
  }
}

int StopSignal::wait_for(std::chrono::milliseconds time) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point end = Clock::now() + time;
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
    // Unlike read, poll ends with EINTR. TSan runs a handler only when the call under way has
    // ended.
    pollfd ready = {.fd = read_end_, .events = POLLIN, .revents = 0};
    const int found = poll(&ready, 1, static_cast<int>(std::max<int64_t>(left, 0)));
    unsigned char byte = 0;
    if (found == 1 && read(read_end_, &byte, 1) == 1) return byte;
    if (left <= 0) return -1;
  }
}

void StopSignal::raise() { send(kRaised); }

}  // namespace lorax::cli
