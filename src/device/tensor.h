// A view of device memory: pointer, element type, shape and strides. It never owns; it is copied
// like a pointer. (The fields are those of DLPack's DLTensor, with a fixed maximal rank.)
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "base/check.h"
#include "base/dtype.h"

namespace lorax {

struct Tensor {
  static constexpr int kMaxRank = 4;

  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};
  std::array<int64_t, kMaxRank> strides{};  // in elements

  Tensor() = default;
  // A contiguous (row-major) tensor over `data`.
  Tensor(void* data, DType dtype, std::initializer_list<int64_t> shape);

  // "None" of the model contract: no tensor at all.
  bool empty() const { return rank == 0; }
  int64_t dim(int axis) const { return shape[static_cast<size_t>(axis)]; }
  int64_t stride(int axis) const { return strides[static_cast<size_t>(axis)]; }
  int64_t numel() const;
  size_t bytes() const { return static_cast<size_t>(numel()) * size_of(dtype); }
  bool is_contiguous() const;
  bool has_shape(std::initializer_list<int64_t> expected) const;

  // Elements [begin, end) of one axis; the other axes are whole. No copy.
  Tensor slice(int axis, int64_t begin, int64_t end) const;
  // Element `index` of one axis, which goes away.
  Tensor select(int axis, int64_t index) const;
  Tensor swap_axes(int a, int b) const;
  // The same elements of a contiguous tensor under another shape of equal size.
  Tensor view(std::initializer_list<int64_t> new_shape) const;
  // Splits the last axis, which must be dense, into [outer, inner]; strides of the others stay.
  Tensor split_last(int64_t outer, int64_t inner) const;

  template <typename T>
  T* as() const {
    LORAX_CHECK(dtype == dtype_of<T>(), "tensor holds {}", name_of(dtype));
    return static_cast<T*>(data);
  }

  // "bfloat16[4, 2304]"
  std::string describe() const;
};

}  // namespace lorax
