#include "formats/file_descriptor.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace lorax {
namespace {

// Linux moves at most 2 GiB at a time.
constexpr uint64_t kMaxPiece = uint64_t{1} << 30;

}  // namespace

void FileDescriptor::close() {
  if (is_open()) ::close(std::exchange(value_, -1));
}

std::string system_error_text() { return std::generic_category().message(errno); }

std::string read_fully(const FileDescriptor& file, void* to, uint64_t bytes, uint64_t offset) {
  char* out = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t n =
        ::pread(file.get(), out, std::min(bytes, kMaxPiece), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return system_error_text();
    if (n == 0) return "the file has become shorter since it was opened";
    out += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<uint64_t>(n);
  }
  return "";
}

std::string write_fully(const FileDescriptor& file, const void* from, uint64_t bytes,
                        uint64_t offset) {
  const char* in = static_cast<const char*>(from);
  while (bytes > 0) {
    const ssize_t n =
        ::pwrite(file.get(), in, std::min(bytes, kMaxPiece), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return system_error_text();
    in += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<uint64_t>(n);
  }
  return "";
}

}  // namespace lorax
