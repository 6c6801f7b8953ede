// A product for every shape, stride and alignment, and the one whose sums are easiest to follow:
// tiles of 64 x 64 outputs, 16 steps of k at a time in shared memory, 4 x 4 outputs per thread.
#include "device/cuda/ops/kernels.h"
#include "device/cuda/ptx/vector.cuh"

namespace lorax::cuda {
namespace {

constexpr int kTile = 64;
constexpr int kDepth = 16;
constexpr int kThreads = 256;

// tile[k][row] = from[first + row][k0 + k] as float32, zero outside.
template <typename T>
__device__ void load_tile(float (&tile)[kDepth][kTile + 4], const T* from, int64_t stride,
                          int64_t first, int64_t rows, int64_t k0, int64_t n) {
  for (int i = threadIdx.x; i < kTile * kDepth; i += kThreads) {
    const int64_t row = first + i / kDepth;
    const int64_t k = k0 + i % kDepth;
    tile[i % kDepth][i / kDepth] = row < rows && k < n ? to_float(from[row * stride + k]) : 0.0f;
  }
}

template <typename T, typename Out>
__global__ void __launch_bounds__(kThreads)
    general_kernel(const T* x, int64_t x_stride, const T* weight, Out* out, int64_t out_stride,
                   int64_t rows, int64_t m, int64_t n) {
  __shared__ float x_tile[kDepth][kTile + 4];
  __shared__ float weight_tile[kDepth][kTile + 4];
  const int64_t first_column = int64_t{blockIdx.x} * kTile;
  const int64_t first_row = int64_t{blockIdx.y} * kTile;
  const int column = threadIdx.x % 16;
  const int row = threadIdx.x / 16;
  float sums[4][4] = {};
  for (int64_t k0 = 0; k0 < n; k0 += kDepth) {
    load_tile(x_tile, x, x_stride, first_row, rows, k0, n);
    load_tile(weight_tile, weight, n, first_column, m, k0, n);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sums[i][j] += x_tile[k][row + 16 * i] * weight_tile[k][column + 16 * j];
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t to_row = first_row + row + 16 * i;
      const int64_t to_column = first_column + column + 16 * j;
      if (to_row < rows && to_column < m) {
        out[to_row * out_stride + to_column] = from_float<Out>(sums[i][j]);
      }
    }
  }
}

}  // namespace

void general_linear(cudaStream_t stream, const LinearArgs& args) {
  // A grid has at most 65,535 rows of blocks; more rows of x come in several launches.
  constexpr int64_t kMaxRows = int64_t{65535} * kTile;
  visit_dtypes(args.x.dtype, args.out.dtype,
               [&]<typename T, typename Out>(std::type_identity<T>, std::type_identity<Out>) {
                 for (int64_t first = 0; first < args.rows; first += kMaxRows) {
                   const int64_t rows = args.rows - first < kMaxRows ? args.rows - first : kMaxRows;
                   const dim3 grid(blocks_for(args.m, kTile), blocks_for(rows, kTile));
                   general_kernel<T, Out><<<grid, kThreads, 0, stream>>>(
                       static_cast<const T*>(args.x.data) + first * args.x.stride, args.x.stride,
                       static_cast<const T*>(args.weight),
                       static_cast<Out*>(args.out.data) + first * args.out.stride, args.out.stride,
                       rows, args.m, args.n);
                 }
               });
}

}  // namespace lorax::cuda
