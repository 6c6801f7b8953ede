// The files of an adapter's directory, read as one state of it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "formats/folder.h"
#include "formats/safetensors.h"

namespace lorax {

// An adapter's directory. Throws Error, which says what an adapter is, if it cannot be opened.
Folder open_adapter(const std::filesystem::path& directory, const FileBounds& bounds);

// The texts and open files that make up an adapter.
struct AdapterFiles {
  std::string origin;       // the directory, for messages
  std::string peft_text;    // adapter_config.json; "" if there is none
  std::string medusa_text;  // config.json if it speaks of Medusa heads; else ""
  std::vector<SafetensorsFile> tensors;
};

// Watches a directory while it is read.
class DirectorySnapshot {
 public:
  // Throws Error if the directory is not there, or a file of it lies out of bounds; waits some
  // milliseconds where it was written this instant, as the file system's clock could not tell the
  // next write from it.
  explicit DirectorySnapshot(const std::filesystem::path& directory, const FileBounds& bounds = {});

  // Reads the texts and opens the tensor files. Throws Error that says what to do.
  AdapterFiles open() const;
  // Throws Error if files have come, gone or changed since the snapshot was taken.
  void check_unchanged() const;

 private:
  struct Identity {
    uint64_t device = 0, inode = 0, bytes = 0;
    int64_t modified_ns = 0, changed_ns = 0;
    bool operator==(const Identity&) const = default;
  };
  using Entries = std::map<std::string, Identity>;  // by file name

  Entries list() const;

  Folder folder_;
  Entries entries_;
};

}  // namespace lorax
