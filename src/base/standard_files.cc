#include "base/standard_files.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>

namespace lorax {
namespace {

constexpr int kPatienceMs = 100;

// What `stderr` does with its bytes: all are taken, whatever becomes of them.
ssize_t write_error(void*, const char* bytes, size_t size) {
  print_error({bytes, size});
  return static_cast<ssize_t>(size);
}

}  // namespace

void open_standard_files() noexcept {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (fcntl(fd, F_GETFD) != -1 || errno != EBADF) continue;
    // The lowest free number, which is this one.
    [[maybe_unused]] const int opened = open("/dev/null", O_RDWR);
  }
  std::FILE* const file = fopencookie(
      nullptr, "w", {.read = nullptr, .write = write_error, .seek = nullptr, .close = nullptr});
  if (file == nullptr) return;
  std::setvbuf(file, nullptr, _IOLBF, BUFSIZ);
  stderr = file;
}

void print_error(std::string_view text) noexcept {
  while (!text.empty()) {
    pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
    if (poll(&ready, 1, kPatienceMs) != 1) return;
    // A pipe that is ready takes so much at once without waiting.
    const ssize_t written =
        write(STDERR_FILENO, text.data(), std::min<size_t>(text.size(), PIPE_BUF));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace lorax
