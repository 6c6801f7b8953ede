#include "formats/folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <memory>
#include <utility>

#include "base/error.h"
#include "formats/printable.h"
#include "formats/read_file.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

// O_NONBLOCK: a named pipe would wait for its writer.
constexpr int kRead = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
constexpr int kReadDirectory = O_RDONLY | O_CLOEXEC | O_DIRECTORY;
constexpr int kLookUp = O_PATH | O_CLOEXEC;

std::string own_link(const FileDescriptor& file) {
  return fmt::format("/proc/self/fd/{}", file.get());
}

// Where what is open lies; "" where the system does not say.
fs::path path_of(const FileDescriptor& file) {
  std::array<char, PATH_MAX> path = {};
  const ssize_t length = ::readlink(own_link(file).c_str(), path.data(), path.size());
  return length <= 0 ? "" : std::string(path.data(), static_cast<size_t>(length));
}

// Whether openat2 has met a link that leads out of its directory, perhaps to a place within the
// bounds, or is not to be had: old kernels do not know it, and some sandboxes forbid it.
bool may_lead_elsewhere(int error) {
  return error == EXDEV || error == ELOOP || error == EAGAIN || error == ENOSYS || error == EPERM;
}

// Opens a path relative to the directory `at`, which lies within the bounds. Where it fails, errno
// says why: EXDEV for what lies out of bounds.
FileDescriptor open_within(const FileBounds& bounds, int at, const std::string& path, int flags) {
  if (bounds.is_everywhere()) return FileDescriptor(::openat(at, path.c_str(), flags));
  open_how how = {};
  how.flags = static_cast<uint64_t>(flags);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  FileDescriptor below(
      static_cast<int>(::syscall(SYS_openat2, at, path.c_str(), &how, sizeof(how))));
  if (below.is_open() || !may_lead_elsewhere(errno)) return below;
  // This holds on to what the path leads to, whatever happens to the path, and reads nothing.
  FileDescriptor place(::openat(at, path.c_str(), kLookUp));
  if (!place.is_open()) return place;
  if (bounds.root_of(path_of(place)) == nullptr) {
    errno = EXDEV;
    return FileDescriptor();
  }
  if (flags == kLookUp) return place;
  return FileDescriptor(::open(own_link(place).c_str(), flags));
}

FileDescriptor open_directory(const fs::path& path, const FileBounds& bounds) {
  if (bounds.is_everywhere()) return FileDescriptor(::open(path.c_str(), kReadDirectory));
  const fs::path* root = bounds.root_of(path);
  if (root == nullptr) {
    errno = EXDEV;
    return FileDescriptor();
  }
  const FileDescriptor top(::open(root->c_str(), kLookUp | O_DIRECTORY));
  if (!top.is_open()) return FileDescriptor();
  return open_within(bounds, top.get(), path.lexically_relative(*root).string(), kReadDirectory);
}

// Why `what` could not be opened, of errno.
std::string reason_of_failure(std::string_view what) {
  switch (errno) {
    case ENOENT:
      return fmt::format("no such {}", what);
    case ENXIO:
    case ENOTDIR:
      return fmt::format("is no {}", what);
    case EXDEV:
      return "lies outside of the directories that may be read; copy it there, or permit where it "
             "lies";
    default:
      return fmt::format("cannot be opened: {}", system_error_text());
  }
}

[[noreturn]] void fail_to_open(const fs::path& path, std::string_view what) {
  const std::string reason = reason_of_failure(what);
  fail("{}: {}", printable(path.string()), reason);
}

}  // namespace

FileBounds::FileBounds(const std::vector<fs::path>& directories, std::string_view flag) {
  roots_.emplace();
  for (const fs::path& directory : directories) {
    std::error_code error;
    const fs::path root = fs::canonical(directory, error);
    if (error || !fs::is_directory(root, error)) {
      fail("{} {}: is no directory that can be read; create it or name another", flag,
           printable(directory.string()));
    }
    roots_->push_back(root);
  }
}

const fs::path* FileBounds::root_of(const fs::path& canonical) const {
  for (const fs::path& root : roots_.value()) {
    if (canonical == root || is_below(canonical, root)) return &root;
  }
  return nullptr;
}

void FileBounds::add(const FileBounds& other) {
  roots_->insert(roots_->end(), other.roots().begin(), other.roots().end());
}

bool is_below(const fs::path& path, const fs::path& directory) {
  const auto [end, unused] =
      std::mismatch(directory.begin(), directory.end(), path.begin(), path.end());
  return end == directory.end() && path != directory;
}

Folder::Folder(fs::path path, FileDescriptor directory, FileBounds bounds)
    : path_(std::move(path)), directory_(std::move(directory)), bounds_(std::move(bounds)) {}

Folder Folder::open(const fs::path& path, FileBounds bounds) {
  FileDescriptor directory = open_directory(path, bounds);
  if (!directory.is_open()) fail_to_open(path, "directory");
  return {path, std::move(directory), std::move(bounds)};
}

std::vector<std::string> Folder::names() const {
  // A description of its own, with its own position: threads may list at the same time.
  const int own = ::openat(directory_.get(), ".", kReadDirectory);
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(own < 0 ? nullptr : ::fdopendir(own),
                                                   &::closedir);
  if (stream == nullptr) {
    fail("{}: cannot be read: {}", printable(path_.string()), system_error_text());
  }
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(stream.get())) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  if (errno != 0) fail("{}: cannot be read: {}", printable(path_.string()), system_error_text());
  std::ranges::sort(names);
  return names;
}

std::optional<struct stat> Folder::find(const std::string& name) const {
  struct stat status {};
  if (::fstatat(directory_.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return {};
  if (!S_ISLNK(status.st_mode)) return status;
  const FileDescriptor place = open_within(bounds_, directory_.get(), name, kLookUp);
  if (!place.is_open() || ::fstat(place.get(), &status) != 0) return {};
  return status;
}

bool Folder::has(const std::string& name) const {
  struct stat status {};
  return ::fstatat(directory_.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
}

FileDescriptor Folder::open_file(const std::string& name) const {
  FileDescriptor file = open_within(bounds_, directory_.get(), name, kRead);
  struct stat status {};
  if (!file.is_open() || ::fstat(file.get(), &status) != 0) fail_to_open(path_ / name, "file");
  if (!S_ISREG(status.st_mode)) fail("{}: is not a file", printable((path_ / name).string()));
  return file;
}

std::string Folder::read(const std::string& name, uint64_t max_bytes) const {
  return read_whole(open_file(name), (path_ / name).string(), max_bytes);
}

Folder Folder::subfolder(const std::string& name) const {
  FileDescriptor directory = open_within(bounds_, directory_.get(), name, kReadDirectory);
  if (!directory.is_open()) fail_to_open(path_ / name, "directory");
  return {path_ / name, std::move(directory), bounds_};
}

}  // namespace lorax
