#include "cli/stop_signal.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "base/error.h"

namespace lorax::cli {
namespace {

constexpr std::array<int, 2> kSignals = {SIGTERM, SIGINT};

// A handler may do little more than write to a pipe.
int write_end = -1;

void forward(int signal) {
  const int saved = errno;
  const auto byte = static_cast<unsigned char>(signal);
  [[maybe_unused]] const ssize_t written = write(write_end, &byte, 1);
  errno = saved;
}

void handle(void (*handler)(int), int flags) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  sigemptyset(&action.sa_mask);
  for (int signal : kSignals) sigaction(signal, &action, nullptr);
}

}  // namespace

StopSignal::StopSignal() {
  std::array<int, 2> ends = {-1, -1};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    fail("cannot wait for signals: {}", std::generic_category().message(errno));
  }
  read_end_ = ends[0];
  write_end = ends[1];
  handle(forward, SA_RESTART | static_cast<int>(SA_RESETHAND));
}

StopSignal::~StopSignal() {
  handle(SIG_DFL, 0);
  close(read_end_);
  close(write_end);
}

int StopSignal::wait() {
  // Unlike read, poll ends with EINTR. TSan runs a handler only when the call under way has ended.
  pollfd ready = {.fd = read_end_, .events = POLLIN, .revents = 0};
  while (poll(&ready, 1, -1) != 1) {
  }
  unsigned char byte = 0;
  while (read(read_end_, &byte, 1) != 1) {
  }
  return byte;
}

}  // namespace lorax::cli
