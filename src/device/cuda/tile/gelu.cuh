// The activation of the MLP, the same in every kernel of a type.
#pragma once

#include <type_traits>

#include "device/cuda/ptx/mma.cuh"

namespace lorax::cuda {

// gelu_tanh(gate) * up of numbers of type T. For those of 16 bits with the hardware's base-2
// exponential and reciprocal, to about 2^-21 of itself: (1 + tanh(x)) / 2 is 1 / (1 + e^-2x).
template <typename T>
__device__ float gelu_tanh_mul(float gate, float up) {
  const float cube = __fmul_rn(__fmul_rn(gate, gate), gate);
  const float inner = __fmaf_rn(0.044715f, cube, gate);  // times sqrt(2 / pi):
  if constexpr (std::is_same_v<T, float>) {
    const float share = 1.0f + tanhf(0.7978845608028654f * inner);
    return __fmul_rn(__fmul_rn(0.5f * gate, share), up);
  } else {
    constexpr float kFactor = -2.3022081981f;  // -2 sqrt(2 / pi) log2(e)
    const float share = reciprocal_fast(__fadd_rn(1.0f, exp2_fast(__fmul_rn(kFactor, inner))));
    return __fmul_rn(__fmul_rn(gate, share), up);
  }
}

}  // namespace lorax::cuda
