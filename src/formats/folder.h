// Directories and the files in them, opened so that no link leads out of where files may lie.
//
// A path, and each link on it, can be exchanged for another between a look at it and its opening.
// So a Folder is a directory that is open, names are looked up in it by the kernel with the bounds
// in hand (openat2), and where a link leads on to another permitted place, the question where that
// is is put to the file that has been opened, before anything of it is read.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/file_descriptor.h"

namespace lorax {

// Where files may lie: anywhere, or below some directories.
class FileBounds {
 public:
  FileBounds() = default;  // anywhere
  // Throws Error that begins with `flag` for a path that is no directory. Of none: nowhere.
  FileBounds(const std::vector<std::filesystem::path>& directories, std::string_view flag);

  bool is_everywhere() const { return !roots_; }
  // Canonical paths. Not if they may lie anywhere.
  const std::vector<std::filesystem::path>& roots() const { return roots_.value(); }
  // Adds the directories of the other.
  void add(const FileBounds& other);
  // The directory at or below which a canonical path lies; null if there is none.
  const std::filesystem::path* root_of(const std::filesystem::path& canonical) const;

 private:
  std::optional<std::vector<std::filesystem::path>> roots_;  // canonical
};

// Whether the path lies below the directory, and is not it. Both are canonical.
bool is_below(const std::filesystem::path& path, const std::filesystem::path& directory);

// An open directory. Thread-safe.
class Folder {
 public:
  // Throws Error if there is no such directory, or it lies out of bounds; within bounds, `path` is
  // canonical.
  static Folder open(const std::filesystem::path& path, FileBounds bounds = {});

  const std::filesystem::path& path() const { return path_; }
  // What lies in it, sorted. Throws Error if that cannot be read.
  std::vector<std::string> names() const;
  // What a name, or the link of that name, stands for; nothing if it is not there or cannot be
  // reached within the bounds.
  std::optional<struct stat> find(const std::string& name) const;
  // Whether there is something of that name, though it may be out of reach.
  bool has(const std::string& name) const;

  // A regular file, for reading. Never waits for a pipe's other end. Throws Error that says what is
  // wrong: not there, out of bounds, a device.
  FileDescriptor open_file(const std::string& name) const;
  // Its bytes. Throws Error likewise, and if they are more than `max_bytes`.
  std::string read(const std::string& name, uint64_t max_bytes) const;
  Folder subfolder(const std::string& name) const;

 private:
  Folder(std::filesystem::path path, FileDescriptor directory, FileBounds bounds);

  std::filesystem::path path_;
  FileDescriptor directory_;
  FileBounds bounds_;
};

}  // namespace lorax
