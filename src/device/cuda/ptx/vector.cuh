// Loads and stores of kWidth neighbouring elements as floats, in one access where kWidth is 4.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "base/dtype.h"
#include "device/cuda/ops/kernels.h"

namespace lorax::cuda {

using bfloat16 = __nv_bfloat16;
using float16 = __half;

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(bfloat16 value) { return __bfloat162float(value); }
__device__ inline float to_float(float16 value) { return __half2float(value); }

template <typename T>
__device__ T from_float(float value) {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else if constexpr (std::is_same_v<T, float16>) {
    return __float2half_rn(value);
  } else {
    return __float2bfloat16_rn(value);
  }
}

template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Packed {
  T values[kWidth];
};

template <int kWidth, typename T>
__device__ void load(const T* from, float (&to)[kWidth]) {
  const Packed<T, kWidth> packed = *reinterpret_cast<const Packed<T, kWidth>*>(from);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) to[i] = to_float(packed.values[i]);
}

template <int kWidth, typename T>
__device__ void store(const float (&from)[kWidth], T* to) {
  Packed<T, kWidth> packed;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) packed.values[i] = from_float<T>(from[i]);
  *reinterpret_cast<Packed<T, kWidth>*>(to) = packed;
}

// Whether rows can be read four elements at a time.
inline bool fours(const Rows& rows, int64_t width) {
  return width % 4 == 0 && rows.stride % 4 == 0 &&
         reinterpret_cast<uintptr_t>(rows.data) % (4 * size_of(rows.dtype)) == 0;
}

// Calls function(std::type_identity<T>()) with T = bfloat16 or float16.
template <typename Function>
void visit_16_bit_dtype(DType dtype, const Function& function) {
  if (dtype == DType::kFloat16) {
    function(std::type_identity<float16>());
  } else {
    function(std::type_identity<bfloat16>());
  }
}

// Calls function(std::type_identity<T>()) with T = float, bfloat16 or float16.
template <typename Function>
void visit_model_dtype(DType dtype, const Function& function) {
  if (dtype == DType::kFloat32) {
    function(std::type_identity<float>());
  } else {
    visit_16_bit_dtype(dtype, function);
  }
}

// Calls function(std::type_identity<T>(), std::type_identity<Out>()) for what is read and written:
// one of them is float, or both are the same type.
template <typename Function>
void visit_dtypes(DType dtype, DType out_dtype, const Function& function) {
  visit_model_dtype(dtype, [&]<typename T>(std::type_identity<T> type) {
    if constexpr (std::is_same_v<T, float>) {
      visit_model_dtype(out_dtype, [&](auto out_type) { function(type, out_type); });
    } else if (out_dtype == DType::kFloat32) {
      function(type, std::type_identity<float>());
    } else {
      function(type, type);
    }
  });
}

// Calls function(std::integral_constant<int, W>()) with W = 4 or 1.
template <typename Function>
void visit_width(bool by_four, const Function& function) {
  if (by_four) {
    function(std::integral_constant<int, 4>());
  } else {
    function(std::integral_constant<int, 1>());
  }
}

inline unsigned blocks_for(int64_t n, int64_t unit) {
  return static_cast<unsigned>((n + unit - 1) / unit);
}

}  // namespace lorax::cuda
