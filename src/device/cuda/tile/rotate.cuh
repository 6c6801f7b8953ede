// The rotation of rotary embeddings, the same bits in every kernel.
#pragma once

namespace lorax::cuda {

// Of elements x1 of the first half of a head and their partners x2 in the second.
template <int kWidth>
__device__ void rotate(const float (&x1)[kWidth], const float (&x2)[kWidth],
                       const float (&c)[kWidth], const float (&s)[kWidth], float (&y1)[kWidth],
                       float (&y2)[kWidth]) {
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    y1[j] = __fmaf_rn(x1[j], c[j], -__fmul_rn(x2[j], s[j]));
    y2[j] = __fmaf_rn(x2[j], c[j], __fmul_rn(x1[j], s[j]));
  }
}

}  // namespace lorax::cuda
