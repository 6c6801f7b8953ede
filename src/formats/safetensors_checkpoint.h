// The weights of a Hugging Face checkpoint directory: model.safetensors, or several files that
// model.safetensors.index.json lists. Where both are, the first counts, as in transformers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "formats/safetensors.h"

namespace lorax {

// Name of a tensor -> name of the file beside the index that holds it, as the text of an index of
// shards says. Never empty. Throws Error that begins with `origin` for anything else, also for a
// name that leads out of the directory.
std::map<std::string, std::string> parse_weight_map(std::string_view text, std::string_view origin);

// Reading is thread-safe.
class SafetensorsCheckpoint {
 public:
  // Opens every file and checks that the index and the files agree on who holds what. Throws Error
  // that says what to do if the directory, a file or a tensor is missing.
  static SafetensorsCheckpoint open(const std::filesystem::path& directory);

  const std::filesystem::path& directory() const { return directory_; }
  std::vector<std::string> names() const;
  // Of all tensors together, as they are stored.
  uint64_t total_bytes() const;
  // nullptr if there is none of that name.
  const TensorInfo* find(const std::string& name) const;
  // The file that holds the tensor, for messages. `name` must be there.
  const std::filesystem::path& file_of(const std::string& name) const;
  // As SafetensorsFile::read. `name` must be there.
  void read(const std::string& name, uint64_t first_byte, uint64_t bytes, void* to) const;

 private:
  explicit SafetensorsCheckpoint(std::filesystem::path directory)
      : directory_(std::move(directory)) {}
  void open_single(const std::filesystem::path& file);
  void open_shards(const std::filesystem::path& index);

  struct Entry {
    size_t file;
    const TensorInfo* info;
  };
  const Entry& entry(const std::string& name) const;

  std::filesystem::path directory_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, Entry> tensors_;
};

}  // namespace lorax
