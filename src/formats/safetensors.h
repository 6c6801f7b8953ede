// Reads the safetensors format: an 8-byte little-endian length, that many bytes of JSON that name
// each tensor's type, shape and place, then the data. Sizes and places in a file are foreign: all
// are checked before anything is allocated or read.
// https://github.com/huggingface/safetensors#format
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "formats/file_descriptor.h"

namespace lorax {

struct TensorInfo {
  std::string name;
  std::string dtype_name;      // as the format spells it: "BF16"
  std::optional<DType> dtype;  // none: a type of the format that this program does not compute in
  std::vector<int64_t> shape;  // at most 8 sizes; their product does not overflow
  uint64_t offset = 0;         // from the start of the data section; need not be aligned
  uint64_t bytes = 0;
};

struct SafetensorsHeader {
  std::map<std::string, TensorInfo> tensors;
  std::map<std::string, std::string> metadata;
};

// Parses the JSON of a header whose data section has `data_bytes`. Throws Error that names `origin`
// and the tensor for: text that is not JSON, names given twice or with control characters, types
// that the format does not know, shapes and places that contradict each other, overlap, leave holes
// or leave the section.
SafetensorsHeader parse_safetensors_header(std::string_view json, uint64_t data_bytes,
                                           std::string_view origin);

// An open file. Reading is thread-safe.
class SafetensorsFile {
 public:
  // Reads and checks the header alone. Throws Error.
  static SafetensorsFile open(const std::filesystem::path& path);
  // The same of an open file; `path` is its name in messages.
  static SafetensorsFile open(FileDescriptor file, const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, TensorInfo>& tensors() const { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  // nullptr if there is none of that name.
  const TensorInfo* find(const std::string& name) const;

  // `bytes` bytes of a tensor of this file, from `first_byte` of it on; they must lie in it. Throws
  // Error if its type is none of DType, the disk fails or the file has become shorter.
  void read(const TensorInfo& tensor, uint64_t first_byte, uint64_t bytes, void* to) const;

 private:
  SafetensorsFile(std::filesystem::path path, FileDescriptor file, uint64_t data_offset,
                  SafetensorsHeader header);

  std::filesystem::path path_;
  FileDescriptor file_;
  uint64_t data_offset_;
  SafetensorsHeader header_;
};

}  // namespace lorax
