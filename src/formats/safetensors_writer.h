// Writes a safetensors file of tensors that are known before their data is.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "formats/file_descriptor.h"

namespace lorax {

class SafetensorsWriter {
 public:
  struct Declaration {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;  // of sizes >= 0
  };

  // Creates "<path>.partial" with the header; finish() gives it its name, so that a file of that
  // name is always whole. One writer per path at a time. In the file, tensors of wide types come
  // first: so all are aligned to their elements. Throws Error if the file cannot be written, or a
  // name cannot be one of the format or is given twice.
  SafetensorsWriter(std::filesystem::path path, const std::vector<Declaration>& tensors);
  // Removes the partial file if finish() was not reached.
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // Bytes of the tensor at `index` of the declarations, from `first_byte` of it on. Each tensor is
  // written from its first byte to its last without gaps, in pieces of any size; the pieces of
  // several tensors may take turns. Throws Error if the disk is full.
  void write(size_t index, uint64_t first_byte, const void* data, uint64_t bytes);

  // Every byte must have been written. Throws Error if the disk fails.
  void finish();

 private:
  struct Place {
    uint64_t offset = 0;  // in the file
    uint64_t bytes = 0;
    uint64_t written = 0;
  };

  explicit SafetensorsWriter(std::filesystem::path path);
  // Returns the JSON and sets places_, with offsets from the start of the data section.
  std::string make_header(const std::vector<Declaration>& tensors);
  void write_at(uint64_t offset, const void* data, uint64_t bytes);
  [[noreturn]] void fail_to_write(const std::string& reason) const;

  std::filesystem::path path_;
  std::filesystem::path partial_;
  FileDescriptor file_;
  std::vector<Place> places_;  // as declared
};

}  // namespace lorax
