// Products of few rows (decode): bound by reading the weights, which are read once, 16 bytes per
// thread and load.
//
// out^T = weight * x^T on tensor cores: 16 weight rows by 8 rows of x per instruction, so that both
// operands come as they lie in memory. A sum may be taken in any order of k as long as both
// operands agree, so lane (g, t) takes 8 neighbouring elements k = 8t .. 8t + 7 of every 32 as its
// share of two instructions: one 16-byte load of row g. The 8 warps of a block share the same
// weight rows and interleave over k; their sums meet in shared memory, in a fixed order.
//
// While the kernel before still runs, the first wave of blocks has its first weights loaded and
// some more brought into the L2 cache, so that the memory never rests between two products.
#include <algorithm>

#include "device/cuda/kernels.h"
#include "device/cuda/launch.cuh"
#include "device/cuda/mma.cuh"
#include "device/cuda/vector.cuh"

namespace lorax::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kSteps = 2;           // of 32 elements of k that a warp takes at a time:
constexpr int kUnit = kSteps * 32;  // 128 bytes of each row
constexpr int kRound = kWarps * kUnit;
// What one product brings into the L2 cache ahead of time: a few microseconds' worth.
constexpr int64_t kPrefetchBytes = int64_t{12} << 20;

constexpr int blocks_per_multiprocessor(int row_tiles) { return row_tiles == 1 ? 4 : 2; }

// Weights are used once: they need no place in the L1 cache, which holds x.
__device__ uint4 load_weight(const bfloat16* from) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from));
  return value;
}

// kRowTiles * 16 weight rows, kColumnTiles * 8 rows of x.
template <int kRowTiles, int kColumnTiles, typename Out>
__global__ void __launch_bounds__(kWarps * 32, blocks_per_multiprocessor(kRowTiles))
    skinny_kernel(const bfloat16* x, int64_t x_stride, const bfloat16* weight, Out* out,
                  int64_t out_stride, int rows, int64_t m, int64_t n, int first_wave,
                  int prefetch_bytes) {
  __shared__ float sums[kWarps][kRowTiles][kColumnTiles][4][32];
  start_next();
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int64_t first_row = int64_t{blockIdx.x} * (kRowTiles * 16);

  const bfloat16* weights[kRowTiles][2];
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first_row + r * 16 + half * 8 + g;
      weights[r][half] = weight + (row < m ? row : m - 1) * n + t * 8;
    }
  }

  using Unit = uint4[kRowTiles][2][kSteps];
  const uint4 zero = make_uint4(0, 0, 0, 0);
  auto load_unit = [&](int64_t k, Unit& unit) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const bool inside = k + s * 32 + t * 8 < n;
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          unit[r][half][s] = inside ? load_weight(weights[r][half] + k + s * 32) : zero;
        }
      }
    }
  };

  float c[kRowTiles][kColumnTiles][4] = {};
  Unit current, next;
  load_unit(int64_t{warp} * kUnit, current);
  load_unit(int64_t{warp} * kUnit + kRound, next);
  if (prefetch_bytes > 0 && static_cast<int>(blockIdx.x) < first_wave &&
      threadIdx.x < kRowTiles * 16 && first_row + threadIdx.x < m) {
    prefetch_to_l2(weight + (first_row + threadIdx.x) * n + 2 * kRound, prefetch_bytes);
  }
  wait_for_previous();
  for (int64_t k = int64_t{warp} * kUnit; k < n; k += kRound) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      uint4 b[kColumnTiles];
      const int64_t at = k + s * 32 + t * 8;
#pragma unroll
      for (int column = 0; column < kColumnTiles; ++column) {
        const int row = column * 8 + g;
        b[column] = row < rows && at < n
                        ? __ldcg(reinterpret_cast<const uint4*>(x + row * x_stride + at))
                        : zero;
      }
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        const uint4 low = current[r][0][s];
        const uint4 high = current[r][1][s];
        const uint32_t a0[4] = {low.x, high.x, low.y, high.y};
        const uint32_t a1[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
        for (int column = 0; column < kColumnTiles; ++column) {
          mma(c[r][column], a0, b[column].x, b[column].y);
          mma(c[r][column], a1, b[column].z, b[column].w);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int s = 0; s < kSteps; ++s) current[r][half][s] = next[r][half][s];
      }
    }
    load_unit(k + 2 * kRound, next);
  }

#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int column = 0; column < kColumnTiles; ++column) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[warp][r][column][i][lane] = c[r][column][i];
    }
  }
  __syncthreads();
  constexpr int kRows = kRowTiles * 16;
  for (int i = threadIdx.x; i < kRows * kColumnTiles * 8; i += kWarps * 32) {
    const int row = i % kRows;     // of the weight
    const int column = i / kRows;  // row of x
    if (first_row + row >= m || column >= rows) continue;
    const int element = row / 8 % 2 * 2 + column % 2;
    const int owner = row % 8 * 4 + column % 8 / 2;
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += sums[w][row / 16][column / 8][element][owner];
    out[column * out_stride + first_row + row] = from_float<Out>(sum);
  }
}

template <int kRowTiles, int kColumnTiles>
void multiply(Stream stream, const LinearArgs& args) {
  const unsigned grid = blocks_for(args.m, kRowTiles * 16);
  const int first_wave = std::min(static_cast<int>(grid),
                                  stream.multiprocessors * blocks_per_multiprocessor(kRowTiles));
  // Of each row, beyond what the first two rounds load.
  const int64_t rest = std::max<int64_t>(0, args.n - 2 * kRound) * 2;
  const int64_t share = kPrefetchBytes / (first_wave * kRowTiles * 16) / 128 * 128;
  visit_model_dtype(args.out.dtype, [&]<typename Out>(std::type_identity<Out>) {
    launch(stream, grid, kWarps * 32, 0, skinny_kernel<kRowTiles, kColumnTiles, Out>,
           static_cast<const bfloat16*>(args.x.data), args.x.stride,
           static_cast<const bfloat16*>(args.weight), static_cast<Out*>(args.out.data),
           args.out.stride, static_cast<int>(args.rows), args.m, args.n, first_wave,
           static_cast<int>(std::min(rest, share)));
  });
}

}  // namespace

void skinny_linear(Stream stream, const LinearArgs& args) {
  if (args.rows <= 8) {
    multiply<1, 1>(stream, args);
  } else if (args.rows <= 16) {
    multiply<2, 2>(stream, args);
  } else {
    multiply<2, 4>(stream, args);
  }
}

}  // namespace lorax::cuda
