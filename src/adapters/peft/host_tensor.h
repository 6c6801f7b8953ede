// A tensor in host memory, as an adapter's file holds it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace lorax {

// Copies share the bytes, which nobody changes once the tensor is filled.
struct HostTensor {
  DType dtype = DType::kFloat32;  // float32, bfloat16 or float16
  std::vector<int64_t> shape;
  std::shared_ptr<std::byte[]> data;  // row-major; null for a tensor that is not there

  // With bytes that the caller fills.
  static HostTensor allocate(DType dtype, std::vector<int64_t> shape);
  static HostTensor from_floats(const std::vector<float>& values, std::vector<int64_t> shape);

  explicit operator bool() const { return data != nullptr; }
  int64_t elements() const;
  uint64_t bytes() const { return static_cast<uint64_t>(elements()) * size_of(dtype); }
  // All values as `to_dtype`, a float type, rounded to nearest if it is narrower.
  void copy_to(DType to_dtype, void* to) const;
  std::vector<float> floats() const;
  // Whether no value is NaN or infinite.
  bool all_finite() const;
};

// "[16, 2304]".
std::string shape_text(const std::vector<int64_t>& shape);

}  // namespace lorax
