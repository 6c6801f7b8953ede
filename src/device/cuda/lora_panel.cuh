// Products of h and a panel of B on tensor cores, 16 rows by 16 ranks. h stays float32: it is cut
// into three bfloat16 numbers whose sum it is, of 8 bits each. A panel's rows are read as they lie
// in memory, 16 bytes per lane: lane (g, t) takes the columns [8 p(g), 8 p(g) + 8) of the rows 2t,
// 2t + 1, 2t + 8, 2t + 9, and instruction j multiplies column j of each lane's eight. With p(2t) =
// t and p(2t + 1) = t + 4 a lane then holds twice eight neighbouring columns of the result, and the
// four lanes of a row 32 neighbours at a time. An element's sum depends on its row of h and its
// column of B alone.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "device/cuda/mma.cuh"
#include "device/cuda/vector.cuh"

namespace lorax::cuda {

inline constexpr int kPanelGroup = 8;  // columns of 16 bytes

// The eight leading bits of the significand, and the rest, exactly.
__device__ inline float cut(float value, float& rest) {
  const float top = __uint_as_float(__float_as_uint(value) & 0xffff0000u);
  rest = value - top;
  return top;
}

// Neighbours in one register; both are bfloat16 numbers already.
__device__ inline uint32_t pair(float low, float high) {
  return __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632);
}

// parts[0] + parts[1] + parts[2] = h, each for one register of an A operand.
__device__ inline void split(float2 h, uint32_t (&parts)[3]) {
  float2 rest, last;
  const float x = cut(h.x, rest.x);
  const float y = cut(h.y, rest.y);
  parts[0] = pair(x, y);
  const float next_x = cut(rest.x, last.x);
  const float next_y = cut(rest.y, last.y);
  parts[1] = pair(next_x, next_y);
  parts[2] = pair(last.x, last.y);
}

// The place in a panel's row of the eight columns that lane group g reads.
__device__ inline int panel_column(int g) { return (g / 2 + g % 2 * 4) * kPanelGroup; }

// This lane's part of the rows k .. k + 15 of a panel of `rank` rows, zeros beyond them; `panel` is
// where its eight columns of row 0 lie.
__device__ inline void load_panel(const bfloat16* panel, int k, int rank, uint4 (&factors)[4]) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = k + i / 2 * 8 + 2 * t + i % 2;
    factors[i] = row < rank ? __ldg(reinterpret_cast<const uint4*>(panel + row * kLoraPanel))
                            : make_uint4(0, 0, 0, 0);
  }
}

// sums += h * panel, h being a[0] + a[1] + a[2]. Afterwards sums[j][2 * half + group] is row g + 8
// * half, column 32 * group + 8 t + j.
__device__ inline void multiply_panel(float (&sums)[kPanelGroup][4], const uint32_t (&a)[3][4],
                                      const uint4 (&factors)[4]) {
#pragma unroll
  for (int j = 0; j < kPanelGroup; ++j) {
    // Column j of two rows each.
    const auto both = [&](int i) {
      const uint32_t low = (&factors[i].x)[j / 2];
      const uint32_t high = (&factors[i + 1].x)[j / 2];
      return __byte_perm(low, high, j % 2 == 0 ? 0x5410 : 0x7632);
    };
    const uint32_t b0 = both(0);
    const uint32_t b1 = both(2);
#pragma unroll
    for (int part = 2; part >= 0; --part) mma(sums[j], a[part], b0, b1);
  }
}

}  // namespace lorax::cuda
