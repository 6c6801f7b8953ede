// h = A x of 16-bit factors: the first half of a low-rank product.
//
// Products of 16 rows of A by 8 rows of x on tensor cores, both operands as they lie in memory:
// lane (g, t) takes 8 neighbouring elements 8t .. 8t + 7 of every 32 of rows g as its share of two
// instructions (see skinny_linear.cu). A sum over n is cut into chunks, whose length depends on n
// alone; within a chunk the 8 warps of a block take turns of 64 elements and add up in shared
// memory, and chunks are added in ascending order, by this kernel or by the one that reads h. So
// a row's sums are the same bits whatever rows and adapters stand beside it, and however the work
// is laid out:
//   blockIdx.x  a chunk; all of them in turn if gridDim.x is 1
//   blockIdx.y  one of several blocks that share the ranks of all targets, 16 at a time
//   blockIdx.z  a tile of rows of one segment; those that exist come first
#include "device/cuda/lora/lora_tile.cuh"
#include "device/cuda/ops/launch.cuh"
#include "device/cuda/ptx/mma.cuh"

namespace lorax::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kSteps = 2;           // of 32 elements that a warp takes at a time:
constexpr int kUnit = kSteps * 32;  // 128 bytes of each row
static_assert(kLoraChunkUnit == kWarps * kUnit);

// Blocks that fill a GPU a few times.
constexpr int64_t kManyBlocks = 512;
constexpr int64_t kMostRankGroups = 8;  // blocks for one target's ranks

// The part of A that this block takes first, on its way into the L2 cache.
template <typename T>
__device__ void prefetch_a(const LoraArgs& args, int slot) {
  int item = static_cast<int>(blockIdx.y);
  for (int target = 0; target < args.n_targets; ++target) {
    const LoraEntry& entry = entry_of(args, slot, target);
    const int items = (entry.rank + 15) / 16;
    if (item >= items) {
      item -= items;
      continue;
    }
    const int k = item * 16 + static_cast<int>(threadIdx.x);
    const int64_t begin = blockIdx.x * args.chunk;
    if (threadIdx.x < 16 && k < entry.rank && begin < args.n) {
      prefetch_to_l2(static_cast<const T*>(entry.a) + k * args.n + begin,
                     static_cast<uint32_t>(min(args.chunk, args.n - begin) * 2));
    }
    return;
  }
}

template <typename T, int kColumnTiles>
__global__ void __launch_bounds__(kWarps * 32, kColumnTiles == 1 ? 4 : 2)
    shrink_kernel(const __grid_constant__ LoraArgs args) {
  constexpr int kRows = kColumnTiles * 8;
  constexpr int kSums = 16 * kRows;
  constexpr int kSumsEach = (kSums + kWarps * 32 - 1) / (kWarps * 32);
  __shared__ float sums[kWarps][kColumnTiles][4][32];
  start_next();
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const uint4 zero = make_uint4(0, 0, 0, 0);

  const LoraTile tile = find_tile<kRows>(args, static_cast<int>(blockIdx.z));
  if (tile.count > 0) prefetch_a<T>(args, tile.slot);
  wait_for_previous();
  if (tile.count == 0) return;
  const T* x_rows[kColumnTiles];  // null: no such row
#pragma unroll
  for (int column = 0; column < kColumnTiles; ++column) {
    const int row = column * 8 + g;
    x_rows[column] = row < tile.count ? static_cast<const T*>(args.x.data) +
                                            args.rows[tile.begin + row] * args.x.stride + t * 8
                                      : nullptr;
  }

  // Of 16 ranks from `first_rank`.
  auto multiply = [&](const T* a, int rank, int first_rank, int target) {
    const T* a_rows[2];  // null: beyond the rank
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int k = first_rank + half * 8 + g;
      a_rows[half] = k < rank ? a + k * args.n + t * 8 : nullptr;
    }
    float total[kSumsEach] = {};
    for (int64_t begin = blockIdx.x * args.chunk; begin < args.n; begin += gridDim.x * args.chunk) {
      const int64_t end = min(args.n, begin + args.chunk);
      float c[kColumnTiles][4] = {};
      for (int64_t i = begin + warp * kUnit; i < end; i += kWarps * kUnit) {
        uint4 operand_a[kSteps][2];
        uint4 operand_b[kSteps][kColumnTiles];
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          const int64_t at = i + s * 32;
          const bool inside = at + t * 8 < end;
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            operand_a[s][half] = inside && a_rows[half] != nullptr
                                     ? __ldg(reinterpret_cast<const uint4*>(a_rows[half] + at))
                                     : zero;
          }
#pragma unroll
          for (int column = 0; column < kColumnTiles; ++column) {
            operand_b[s][column] = inside && x_rows[column] != nullptr
                                       ? __ldcg(reinterpret_cast<const uint4*>(x_rows[column] + at))
                                       : zero;
          }
        }
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          const uint4 low = operand_a[s][0];
          const uint4 high = operand_a[s][1];
          const uint32_t a0[4] = {low.x, high.x, low.y, high.y};
          const uint32_t a1[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
          for (int column = 0; column < kColumnTiles; ++column) {
            if (column * 8 >= tile.count) break;
            const uint4 b = operand_b[s][column];
            mma<T>(c[column], a0, b.x, b.y);
            mma<T>(c[column], a1, b.z, b.w);
          }
        }
      }
#pragma unroll
      for (int column = 0; column < kColumnTiles; ++column) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[warp][column][i][lane] = c[column][i];
      }
      __syncthreads();
#pragma unroll
      for (int j = 0; j < kSumsEach; ++j) {
        const int i = j * kWarps * 32 + static_cast<int>(threadIdx.x);
        if (i >= kSums) break;
        const int k = i % 16;
        const int row = i / 16;
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) {
          sum += sums[w][row / 8][k / 8 * 2 + row % 2][k % 8 * 4 + row % 8 / 2];
        }
        total[j] += sum;
      }
      __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < kSumsEach; ++j) {
      const int i = j * kWarps * 32 + static_cast<int>(threadIdx.x);
      const int k = first_rank + i % 16;
      const int row = i / 16;
      if (i < kSums && row < tile.count && k < rank + rank % 2) {
        h_row(args, static_cast<int>(blockIdx.x), target, tile.begin + row)[k] = total[j];
      }
    }
  };

  // This block's share of the targets' ranks, counted through.
  int item = static_cast<int>(blockIdx.y);
  for (int target = 0; target < args.n_targets; ++target) {
    const LoraEntry& entry = entry_of(args, tile.slot, target);
    const int rank = entry.rank;
    const T* a = static_cast<const T*>(entry.a);
    const int items = (rank + 15) / 16;
    for (; item < items; item += static_cast<int>(gridDim.y)) multiply(a, rank, item * 16, target);
    item -= items;
  }
}

template <int kColumnTiles>
void shrink(Stream stream, const LoraArgs& args) {
  const unsigned tiles = most_tiles(args, kColumnTiles * 8);
  const int64_t base = int64_t{tiles} * args.parts;
  // With tiles enough, one block for all ranks: it finds x in its L1 cache again.
  int64_t shares = 1;
  if (kColumnTiles == 1 || base < kManyBlocks) {
    const int64_t groups = kManyBlocks / (base * args.n_targets);
    shares = args.n_targets * (groups < 1                 ? 1
                               : groups > kMostRankGroups ? kMostRankGroups
                                                          : groups);
  }
  const dim3 grid(static_cast<unsigned>(args.parts), static_cast<unsigned>(shares), tiles);
  visit_16_bit_dtype(args.x.dtype, [&]<typename T>(std::type_identity<T>) {
    launch(stream, grid, kWarps * 32, 0, shrink_kernel<T, kColumnTiles>, args);
  });
}

}  // namespace

void lora_shrink(Stream stream, const LoraArgs& args) {
  if (int64_t{args.last} - args.first >= int64_t{16} * args.n_segments) {
    shrink<4>(stream, args);
  } else {
    shrink<1>(stream, args);
  }
}

}  // namespace lorax::cuda
