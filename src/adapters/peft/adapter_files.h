// The files of an adapter's directory, read as one state of it.
//
// Files are known by the names that their formats give them; whatever else lies beside them is
// none of an adapter's business. LoRA: adapter_config.json and adapter_model.safetensors, or the
// shards that adapter_model.safetensors.index.json lists. Medusa heads: a config.json with
// medusa_num_heads, and medusa_lm_head.safetensors; without that, adapter_model.safetensors where
// there is a LoRA too, and otherwise all *.safetensors, as in LoRAX.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
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
  AdapterFiles open();
  // Throws Error if a file that the adapter is read from, or would be if it were there, has come,
  // gone or changed since the snapshot was taken.
  void check_unchanged() const;

 private:
  struct Identity {
    uint64_t device = 0, inode = 0, bytes = 0;
    int64_t modified_ns = 0, changed_ns = 0;
    bool operator==(const Identity&) const = default;
  };
  using Entries = std::map<std::string, Identity>;  // by file name

  Entries list() const;
  bool has(const std::string& name) const { return entries_.contains(name); }
  std::vector<std::string> lora_files() const;
  std::vector<std::string> medusa_files() const;
  [[noreturn]] void fail_without_weights(std::string_view wanted, std::string_view pickle) const;

  Folder folder_;
  Entries entries_;
  std::set<std::string> opened_;  // of the files without a name of their own: shards, heads
};

// What tells whether the files of an adapter may have changed: changes with their names, sizes and
// times. `bytes`: of the tensors' files. Quick. Throws Error if the folder cannot be listed.
struct AdapterFilesProbe {
  std::string fingerprint;
  uint64_t bytes = 0;
};
AdapterFilesProbe probe_adapter_files(const Folder& folder);

}  // namespace lorax
