// The activation of the MLP, the same in every kernel.
#pragma once

namespace lorax::cuda {

// gelu_tanh(gate) * up.
__device__ inline float gelu_tanh_mul(float gate, float up) {
  const float cube = __fmul_rn(__fmul_rn(gate, gate), gate);
  const float inner = 0.7978845608028654f * __fmaf_rn(0.044715f, cube, gate);  // sqrt(2 / pi)
  return __fmul_rn(__fmul_rn(0.5f * gate, 1.0f + tanhf(inner)), up);
}

}  // namespace lorax::cuda
