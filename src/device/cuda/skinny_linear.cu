// Products of few rows (decode): bound by reading the weights, which are read once, 16 bytes per
// thread and load.
//
// out^T = weight * x^T on tensor cores: 16 weight rows by 8 rows of x per instruction, so that both
// operands come as they lie in memory. A sum may be taken in any order of k as long as both
// operands agree, so lane (g, t) takes 8 neighbouring elements k = 8t .. 8t + 7 of every 32 as its
// share of two instructions: one 16-byte load of row g. The 8 warps of a block share the same
// weight rows and interleave over k; their sums meet in shared memory, in a fixed order.
#include "device/cuda/kernels.h"
#include "device/cuda/mma.cuh"
#include "device/cuda/vector.cuh"

namespace lorax::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kSteps = 2;           // of 32 elements of k that a warp takes at a time:
constexpr int kUnit = kSteps * 32;  // 128 bytes of each row

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
__global__ void __launch_bounds__(kWarps * 32, kRowTiles == 1 ? 4 : 2)
    skinny_kernel(const bfloat16* __restrict__ x, int64_t x_stride,
                  const bfloat16* __restrict__ weight, Out* __restrict__ out, int64_t out_stride,
                  int rows, int64_t m, int64_t n) {
  __shared__ float sums[kWarps][kRowTiles][kColumnTiles][4][32];
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
  for (int64_t k = int64_t{warp} * kUnit; k < n; k += kWarps * kUnit) {
    load_unit(k + kWarps * kUnit, next);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      uint4 b[kColumnTiles];
      const int64_t at = k + s * 32 + t * 8;
#pragma unroll
      for (int column = 0; column < kColumnTiles; ++column) {
        const int row = column * 8 + g;
        b[column] = row < rows && at < n
                        ? __ldg(reinterpret_cast<const uint4*>(x + row * x_stride + at))
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
void launch(cudaStream_t stream, const LinearArgs& args) {
  const unsigned grid = blocks_for(args.m, kRowTiles * 16);
  visit_model_dtype(args.out.dtype, [&]<typename Out>(std::type_identity<Out>) {
    skinny_kernel<kRowTiles, kColumnTiles, Out><<<grid, kWarps * 32, 0, stream>>>(
        static_cast<const bfloat16*>(args.x.data), args.x.stride,
        static_cast<const bfloat16*>(args.weight), static_cast<Out*>(args.out.data),
        args.out.stride, static_cast<int>(args.rows), args.m, args.n);
  });
}

}  // namespace

void skinny_linear(cudaStream_t stream, const LinearArgs& args) {
  if (args.rows <= 8) {
    launch<1, 1>(stream, args);
  } else if (args.rows <= 16) {
    launch<2, 2>(stream, args);
  } else {
    launch<2, 4>(stream, args);
  }
}

}  // namespace lorax::cuda
