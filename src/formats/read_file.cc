#include "formats/read_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include "base/error.h"
#include "formats/lfs_pointer.h"

namespace lorax {

FileDescriptor open_regular_file(const std::filesystem::path& path) {
  // O_NONBLOCK: a named pipe would wait for its writer.
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat status {};
  if (!file.is_open() || ::fstat(file.get(), &status) != 0) {
    if (errno == ENOENT) fail("{}: no such file", path.string());
    if (errno == ENXIO) fail("{}: is not a file", path.string());  // a socket
    fail("{}: cannot be read: {}", path.string(), system_error_text());
  }
  if (!S_ISREG(status.st_mode)) fail("{}: is not a file", path.string());
  return file;
}

std::string read_file(const std::filesystem::path& file, uint64_t max_bytes) {
  return read_whole(open_regular_file(file), file.string(), max_bytes);
}

std::string read_whole(const FileDescriptor& file, const std::string& origin, uint64_t max_bytes) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) {
    fail("{}: cannot be read: {}", origin, system_error_text());
  }
  const uint64_t bytes = static_cast<uint64_t>(status.st_size);
  if (bytes > max_bytes) {
    fail("{}: {} bytes are more than such a file may have ({})", origin, bytes, max_bytes);
  }
  std::string text(bytes, '\0');
  const std::string reason = read_fully(file, text.data(), bytes, 0);
  if (!reason.empty()) fail("{}: cannot be read: {}", origin, reason);
  refuse_lfs_pointer(text, origin);
  return text;
}

}  // namespace lorax
