// Writes a safetensors file of tensors that are known before their data is.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace lorax {

class SafetensorsWriter {
 public:
  struct Declaration {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
  };

  // Creates "<path>.partial" with the header; finish() gives it its name, so that a file of that
  // name is always whole. Throws Error if it cannot be written.
  SafetensorsWriter(std::filesystem::path path, const std::vector<Declaration>& tensors);
  // Removes the partial file if finish() was not reached.
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // Bytes of the tensor at `index` of the declarations, from `first_byte` of it on; in any order,
  // each byte once. Throws Error if the disk is full.
  void write(size_t index, uint64_t first_byte, const void* data, uint64_t bytes);

  // Every byte must have been written.
  void finish();

 private:
  struct Place {
    uint64_t offset;
    uint64_t bytes;
  };

  std::filesystem::path path_;
  std::filesystem::path partial_;
  int descriptor_ = -1;
  uint64_t missing_ = 0;
  std::vector<Place> places_;
};

}  // namespace lorax
