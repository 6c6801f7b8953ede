// Products of few rows (decode): bound by reading the weights, which are read once, 16 bytes per
// thread and load.
//
// out^T = weight * x^T on tensor cores: 16 weight rows by 8 rows of x per instruction, so that both
// operands come as they lie in memory. A sum may be taken in any order of k as long as both
// operands agree, so lane (g, t) takes 8 neighbouring elements k = 8t .. 8t + 7 of every 32 as its
// share of two instructions: one 16-byte load of row g. The 8 warps of a block share the same
// weight rows and interleave over k; their sums meet in shared memory, in a fixed order, which is
// the same for every kernel here: a row's bits do not depend on which one it is.
//
// While the kernel before still runs, the first wave of blocks has its first weights loaded. (To
// bring more of them into the L2 cache as well did not pay: it took from the kernel that ran.)
// Where it fits, x is copied to shared memory as a whole: a load of it in every step would be
// waited for.
#include "device/cuda/ops/kernels.h"
#include "device/cuda/ops/launch.cuh"
#include "device/cuda/ptx/mma.cuh"
#include "device/cuda/ptx/vector.cuh"
#include "device/cuda/tile/gelu.cuh"

namespace lorax::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kSteps = 2;           // of 32 elements of k that a warp takes at a time:
constexpr int kUnit = kSteps * 32;  // 128 bytes of each row
constexpr int kRound = kWarps * kUnit;
// Rows in shared memory lie half the banks apart.
constexpr int kPad = 32;

// One instance of the kernel. kRowTiles * 16 weight rows and kColumnTiles * 8 rows of x of a block;
// kDepth units of weights that a warp has under way; kBlocks of a multiprocessor.
template <int kRowTiles_, int kColumnTiles_, int kDepth_, int kBlocks_>
struct Shape {
  static constexpr int kRowTiles = kRowTiles_;
  static constexpr int kColumnTiles = kColumnTiles_;
  static constexpr int kDepth = kDepth_;
  static constexpr int kBlocks = kBlocks_;
  static constexpr int kRows = kRowTiles * 16;
  // Where registers are left, x too is under way one unit ahead.
  static constexpr bool kAheadX = kRowTiles == 1 && kDepth == 4 && kColumnTiles <= 2;
  // Of x in shared memory at most.
  static constexpr int64_t kStagedBytes = kRowTiles > 1 ? 0 : (kBlocks == 2 ? 84 : 40) << 10;
};
// For up to 8 rows of x, and for up to 16. Where few blocks have all the rows of the weight, each
// keeps more under way.
using Eight = Shape<1, 1, 2, 4>;
using EightFewBlocks = Shape<1, 1, 4, 2>;
using Sixteen = Shape<2, 2, 2, 2>;
using SixteenFewBlocks = Shape<1, 2, 4, 2>;

// Weights are used once: they need no place in the L1 cache, which holds x.
template <typename T>
__device__ uint4 load_weight(const T* from) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from));
  return value;
}

template <typename T>
struct SkinnyArgs {
  const T* x;
  int64_t x_stride;
  const T* weight;
  void* out;
  int64_t out_stride;
  int rows;
  int64_t m;
  int64_t n;
  bool stages_x;  // to rows of n + kPad elements in shared memory
};

// kGated: the second half of a row tile holds the rows m / 2 further on than the first, and what is
// written is gelu_tanh(first) * second of the rounded products.
template <typename S, typename T, typename Out, bool kGated>
__global__ void __launch_bounds__(kWarps * 32, S::kBlocks)
    skinny_kernel(const __grid_constant__ SkinnyArgs<T> args) {
  constexpr int kRowTiles = S::kRowTiles;
  constexpr int kColumnTiles = S::kColumnTiles;
  __shared__ float sums[kWarps][kRowTiles][kColumnTiles][4][32];
  extern __shared__ __align__(16) uint16_t staged_x[];
  start_next();
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int n = static_cast<int>(args.n);
  // Rows of the output; of the weight `m` stands for the first of the two in a gated product.
  const int64_t m = kGated ? args.m / 2 : args.m;
  constexpr int kOutRows = kGated ? S::kRows / 2 : S::kRows;
  const int64_t first_row = int64_t{blockIdx.x} * kOutRows;
  // Of the weight, for row `row` of the block's tiles; the last one stands for those beyond.
  const auto weight_row = [&](int row) {
    const int64_t tile_row = first_row + (kGated ? row / 16 * 8 + row % 8 : row);
    return (kGated && row % 16 >= 8 ? m : 0) + (tile_row < m ? tile_row : m - 1);
  };

  const T* weights[kRowTiles][2];
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      weights[r][half] = args.weight + weight_row(r * 16 + half * 8 + g) * args.n + t * 8;
    }
  }

  using Unit = uint4[kRowTiles][2][kSteps];
  using XStep = uint4[kColumnTiles];
  const uint4 zero = make_uint4(0, 0, 0, 0);
  auto load_unit = [&](int k, Unit& unit) {
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
  const T* x_rows = args.x;
  int x_stride = static_cast<int>(args.x_stride);
  auto load_x = [&](int k, XStep& x) {
    const int at = k + t * 8;
#pragma unroll
    for (int column = 0; column < kColumnTiles; ++column) {
      const int row = column * 8 + g;
      x[column] = row < args.rows && at < n
                      ? *reinterpret_cast<const uint4*>(x_rows + row * x_stride + at)
                      : zero;
    }
  };
  float c[kRowTiles][kColumnTiles][4] = {};
  auto multiply = [&](const Unit& unit, int s, const XStep& x) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      const uint4 low = unit[r][0][s];
      const uint4 high = unit[r][1][s];
      const uint32_t a0[4] = {low.x, high.x, low.y, high.y};
      const uint32_t a1[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
      for (int column = 0; column < kColumnTiles; ++column) {
        mma<T>(c[r][column], a0, x[column].x, x[column].y);
        mma<T>(c[r][column], a1, x[column].z, x[column].w);
      }
    }
  };

  const int first_k = warp * kUnit;
  Unit units[S::kDepth];
#pragma unroll
  for (int d = 0; d < S::kDepth; ++d) load_unit(first_k + d * kRound, units[d]);
  wait_for_previous();
  if (args.stages_x) {
    const int stride = n + kPad;
    for (int row = 0; row < args.rows; ++row) {
      const uint32_t to = shared_address(staged_x + row * stride);
      for (int at = threadIdx.x * 8; at < n; at += kWarps * 32 * 8) {
        copy_async(to + at * 2, args.x + row * args.x_stride + at, true);
      }
    }
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    x_rows = reinterpret_cast<const T*>(staged_x);
    x_stride = stride;
  }
  XStep ahead[2][kSteps];
  if constexpr (S::kAheadX) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) load_x(first_k + s * 32, ahead[0][s]);
  }
  for (int base = first_k; base < n; base += S::kDepth * kRound) {
#pragma unroll
    for (int d = 0; d < S::kDepth; ++d) {
      const int k = base + d * kRound;
      if (k >= n) break;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        if constexpr (S::kAheadX) {
          load_x(k + kRound + s * 32, ahead[(d + 1) % 2][s]);
          multiply(units[d], s, ahead[d % 2][s]);
        } else {
          XStep x;
          load_x(k + s * 32, x);
          multiply(units[d], s, x);
        }
      }
      load_unit(k + S::kDepth * kRound, units[d]);
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
  // Of row `row` of the block's tiles and row `column` of x.
  const auto sum_of = [&](int row, int column) {
    const int element = row / 8 % 2 * 2 + column % 2;
    const int owner = row % 8 * 4 + column % 8 / 2;
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += sums[w][row / 16][column / 8][element][owner];
    return sum;
  };
  for (int i = threadIdx.x; i < kOutRows * kColumnTiles * 8; i += kWarps * 32) {
    const int row = i % kOutRows;
    const int column = i / kOutRows;
    if (first_row + row >= m || column >= args.rows) continue;
    const int tile_row = kGated ? row / 8 * 16 + row % 8 : row;
    float value = sum_of(tile_row, column);
    if constexpr (kGated) {
      value = gelu_tanh_mul<Out>(to_float(from_float<Out>(value)),
                                 to_float(from_float<Out>(sum_of(tile_row + 8, column))));
    }
    static_cast<Out*>(args.out)[column * args.out_stride + first_row + row] =
        from_float<Out>(value);
  }
}

template <typename S, typename T>
cudaError_t prepare() {
  const auto allow = [](auto kernel) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(S::kStagedBytes));
  };
  const cudaError_t status = allow(skinny_kernel<S, T, T, false>);
  return status != cudaSuccess ? status : allow(skinny_kernel<S, T, float, false>);
}

template <typename S, typename T, bool kGated>
void multiply(Stream stream, const LinearArgs& args) {
  const unsigned grid = blocks_for(args.m, S::kRows);
  const int64_t x_bytes = args.rows * (args.n + kPad) * static_cast<int64_t>(sizeof(T));
  const SkinnyArgs<T> skinny{.x = static_cast<const T*>(args.x.data),
                             .x_stride = args.x.stride,
                             .weight = static_cast<const T*>(args.weight),
                             .out = args.out.data,
                             .out_stride = args.out.stride,
                             .rows = static_cast<int>(args.rows),
                             .m = args.m,
                             .n = args.n,
                             .stages_x = x_bytes <= S::kStagedBytes};
  const size_t shared_bytes = skinny.stages_x ? static_cast<size_t>(x_bytes) : 0;
  const auto run = [&](auto kernel) {
    launch(stream, grid, kWarps * 32, shared_bytes, kernel, skinny);
  };
  if (kGated || args.out.dtype != DType::kFloat32) {
    run(skinny_kernel<S, T, T, kGated>);
  } else if constexpr (!kGated) {
    run(skinny_kernel<S, T, float, false>);
  }
}

}  // namespace

void skinny_linear(Stream stream, const LinearArgs& args) {
  const bool few = blocks_for(args.m, 16) <= static_cast<unsigned>(2 * stream.multiprocessors);
  visit_16_bit_dtype(args.x.dtype, [&]<typename T>(std::type_identity<T>) {
    if (args.rows <= 8) {
      few ? multiply<EightFewBlocks, T, false>(stream, args)
          : multiply<Eight, T, false>(stream, args);
    } else {
      few ? multiply<SixteenFewBlocks, T, false>(stream, args)
          : multiply<Sixteen, T, false>(stream, args);
    }
  });
}

void skinny_linear_gelu_tanh_mul(Stream stream, const LinearArgs& args) {
  visit_16_bit_dtype(args.x.dtype, [&]<typename T>(std::type_identity<T>) {
    multiply<Eight, T, true>(stream, args);
  });
}

cudaError_t prepare_skinny() {
  for (cudaError_t (*prepare_shape)() :
       {prepare<EightFewBlocks, bfloat16>, prepare<SixteenFewBlocks, bfloat16>,
        prepare<EightFewBlocks, float16>, prepare<SixteenFewBlocks, float16>}) {
    if (const cudaError_t status = prepare_shape(); status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace lorax::cuda
