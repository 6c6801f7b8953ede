// Products of h and a panel of B on tensor cores, 16 rows by 16 ranks. h stays float32: it is cut
// into numbers of few bits, of B's type or one that holds B's (HOperand). A panel's rows are read
// as they lie in memory, 16 bytes per lane: lane (g, t) takes the columns [8 p(g), 8 p(g) + 8) of
// the rows 2t, 2t + 1, 2t + 8, 2t + 9, and instruction j multiplies column j of each lane's eight.
// With p(2t) = t and p(2t + 1) = t + 4 a lane then holds twice eight neighbouring columns of the
// result, and the four lanes of a row 32 neighbours at a time. An element's sum depends on its row
// of h and its column of B alone.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "device/cuda/ptx/mma.cuh"
#include "device/cuda/ptx/vector.cuh"

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

// Sixteen rows of h and sixteen ranks, as a lane holds them.
template <typename T>
struct HOperand;

// Three bfloat16 numbers whose sum is h.
template <>
struct HOperand<bfloat16> {
  uint32_t parts[3][4];

  // The ranks 2t and 2t + 1 of row g (i = 0) or g + 8 (1), or the ranks 8 further on (2, 3).
  __device__ void set(int i, float2 h) {
    float2 rest, last;
    const float x = cut(h.x, rest.x);
    const float y = cut(h.y, rest.y);
    parts[0][i] = pair(x, y);
    const float next_x = cut(rest.x, last.x);
    const float next_y = cut(rest.y, last.y);
    parts[1][i] = pair(next_x, next_y);
    parts[2][i] = pair(last.x, last.y);
  }

  // c += h * B: `low` holds the ranks 2t and 2t + 1 of a column of B, `high` those 8 further on.
  __device__ void multiply(float (&c)[4], uint32_t low, uint32_t high) const {
#pragma unroll
    for (int part = 2; part >= 0; --part) mma<bfloat16>(c, parts[part], low, high);
  }
};

// Float16 numbers would not reach as far as h does. Tensor cores take tf32, which has float16's
// bits of significand and float32's exponents: it holds B exactly, and two of it hold h to 2^-23 of
// itself, less than float32 lost on the way to it. An instruction takes eight ranks: the lane's
// even one in the place of its t-th, its odd one in that of the (t + 4)-th.
template <>
struct HOperand<float16> {
  uint32_t parts[2][2][4];  // the number, its rest; ranks below 8, the others

  __device__ static uint32_t to_tf32(float value) {
    uint32_t rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
    return rounded;
  }

  __device__ void set(int i, float2 h) {
    const auto place = [&](int at, float value) {
      const uint32_t top = to_tf32(value);
      parts[0][i / 2][at] = top;
      parts[1][i / 2][at] = to_tf32(value - __uint_as_float(top));
    };
    place(i % 2, h.x);
    place(i % 2 + 2, h.y);
  }

  __device__ void multiply(float (&c)[4], uint32_t low, uint32_t high) const {
    const float2 b[2] = {unpack<float16>(low), unpack<float16>(high)};
#pragma unroll
    for (int part = 1; part >= 0; --part) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        mma_tf32(c, parts[part][half], __float_as_uint(b[half].x), __float_as_uint(b[half].y));
      }
    }
  }
};

// The place in a panel's row of the eight columns that lane group g reads.
__device__ inline int panel_column(int g) { return (g / 2 + g % 2 * 4) * kPanelGroup; }

// This lane's part of the rows k .. k + 15 of a panel of `rank` rows, zeros beyond them; `panel` is
// where its eight columns of row 0 lie.
template <typename T>
__device__ void load_panel(const T* panel, int k, int rank, uint4 (&factors)[4]) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = k + i / 2 * 8 + 2 * t + i % 2;
    factors[i] = row < rank ? __ldg(reinterpret_cast<const uint4*>(panel + row * kLoraPanel))
                            : make_uint4(0, 0, 0, 0);
  }
}

// sums += h * panel. Afterwards sums[j][2 * half + group] is row g + 8 * half, column 32 * group +
// 8 t + j.
template <typename T>
__device__ void multiply_panel(float (&sums)[kPanelGroup][4], const HOperand<T>& h,
                               const uint4 (&factors)[4]) {
#pragma unroll
  for (int j = 0; j < kPanelGroup; ++j) {
    // Column j of two rows each.
    const auto both = [&](int i) {
      const uint32_t low = (&factors[i].x)[j / 2];
      const uint32_t high = (&factors[i + 1].x)[j / 2];
      return __byte_perm(low, high, j % 2 == 0 ? 0x5410 : 0x7632);
    };
    h.multiply(sums[j], both(0), both(2));
  }
}

}  // namespace lorax::cuda
