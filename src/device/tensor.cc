#include "device/tensor.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace lorax {

Tensor::Tensor(void* data, DType dtype, std::initializer_list<int64_t> shape_list)
    : data(data), dtype(dtype), rank(static_cast<int>(shape_list.size())) {
  LORAX_CHECK(shape_list.size() <= kMaxRank);
  std::copy(shape_list.begin(), shape_list.end(), shape.begin());
  int64_t stride = 1;
  for (int axis = rank - 1; axis >= 0; --axis) {
    strides[static_cast<size_t>(axis)] = stride;
    stride *= dim(axis);
  }
}

int64_t Tensor::numel() const {
  int64_t n = 1;
  for (int axis = 0; axis < rank; ++axis) n *= dim(axis);
  return n;
}

bool Tensor::is_contiguous() const {
  int64_t expected = 1;
  for (int axis = rank - 1; axis >= 0; --axis) {
    if (dim(axis) != 1 && stride(axis) != expected) return false;
    expected *= dim(axis);
  }
  return true;
}

bool Tensor::has_shape(std::initializer_list<int64_t> expected) const {
  return static_cast<size_t>(rank) == expected.size() &&
         std::equal(expected.begin(), expected.end(), shape.begin());
}

Tensor Tensor::slice(int axis, int64_t begin, int64_t end) const {
  LORAX_CHECK(0 <= begin && begin <= end && end <= dim(axis), "slice [{}, {}) of axis {} of {}",
              begin, end, axis, describe());
  Tensor part = *this;
  if (data != nullptr) {  // a weight that is only checked has none
    part.data =
        static_cast<char*>(data) + begin * stride(axis) * static_cast<int64_t>(size_of(dtype));
  }
  part.shape[static_cast<size_t>(axis)] = end - begin;
  return part;
}

Tensor Tensor::select(int axis, int64_t index) const {
  Tensor part = slice(axis, index, index + 1);
  const auto at = static_cast<size_t>(axis);
  std::copy(part.shape.begin() + at + 1, part.shape.end(), part.shape.begin() + at);
  std::copy(part.strides.begin() + at + 1, part.strides.end(), part.strides.begin() + at);
  --part.rank;
  return part;
}

Tensor Tensor::swap_axes(int a, int b) const {
  Tensor swapped = *this;
  std::swap(swapped.shape[static_cast<size_t>(a)], swapped.shape[static_cast<size_t>(b)]);
  std::swap(swapped.strides[static_cast<size_t>(a)], swapped.strides[static_cast<size_t>(b)]);
  return swapped;
}

Tensor Tensor::view(std::initializer_list<int64_t> new_shape) const {
  Tensor result(data, dtype, new_shape);
  LORAX_CHECK(is_contiguous() && result.numel() == numel(), "view of {}", describe());
  return result;
}

Tensor Tensor::split_last(int64_t outer, int64_t inner) const {
  const size_t last = static_cast<size_t>(rank - 1);
  LORAX_CHECK(rank >= 1 && rank < kMaxRank && strides[last] == 1 && shape[last] == outer * inner,
              "split of {} into {} x {}", describe(), outer, inner);
  Tensor result = *this;
  result.rank = rank + 1;
  result.shape[last] = outer;
  result.strides[last] = inner;
  result.shape[last + 1] = inner;
  result.strides[last + 1] = 1;
  return result;
}

std::string Tensor::describe() const {
  return fmt::format("{}[{}]", name_of(dtype),
                     fmt::join(shape.begin(), shape.begin() + rank, ", "));
}

}  // namespace lorax
