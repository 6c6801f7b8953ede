// Products of a program.
//
// As in skinny_linear.cu: out^T = weight * x^T on tensor cores, lane (g, t) takes 8 neighbouring
// elements 8t .. 8t + 7 of every 32 of two rows, warp w the elements 64w .. 64w + 63 of every 512.
// But the weights come by way of the ring, where copies are under way ahead of time. More than
// eight rows of x are two tiles of them, for which a warp's weights are used one after the other.
#pragma once

#include "device/cuda/megakernel/program_blocks.cuh"
#include "device/cuda/megakernel/program_lora.cuh"
#include "device/cuda/megakernel/program_ring.cuh"
#include "device/cuda/ptx/mma.cuh"
#include "device/cuda/ptx/vector.cuh"
#include "device/cuda/tile/gelu.cuh"

namespace lorax::cuda {

// What the warps have summed, in shared memory, and again for the next: of one tile and 16 rows of
// x, or of two tiles and eight, so that warps need not meet after each.
using ProductSums = TileValues[2][kProgramWarps][kProgramRowTiles];

// x of the block's part into shared memory; all rows are under way at a time.
__device__ inline void stage_x(const ProgramProduct& product, const Share& share,
                               bfloat16* staged) {
  const int first = share.part * product.part_steps * kProgramRound;
  const int chunks = min(share.steps * kProgramRound, product.n - first) / 8;
  const int stride = x_stride(product);
  const bfloat16* x = static_cast<const bfloat16*>(product.x) + first;
#pragma unroll 1
  for (int row = 0; row < product.rows; ++row) {
    const bfloat16* from = x + row * product.x_stride;
    const uint32_t to = shared_address(staged + row * stride);
#pragma unroll 2
    for (int i = threadIdx.x; i < chunks; i += kProgramThreads) {
      copy_async(to + i * 16, from + i * 8, true);
    }
  }
  commit_copies();
  wait_copies<0>();
}

// Where a thread finds its sum of what the warps have: as their fragments lie, so that all threads
// read different banks.
struct TilePlace {
  int half;  // of the rows of x, or of two tiles
  int i;     // of a fragment
  int row;   // of the tile
  int column;

  __device__ TilePlace() {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    half = warp / 4;
    i = warp % 4;
    row = i / 2 * kBoxRows + row_of_fragment(lane / 4);
    column = lane % 4 * 2 + i % 2;
  }
};

// What the warps have of fragment element i, added up.
__device__ inline float add_up(const ProductSums& sums, int parity, int half, int i) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float sum = 0.0f;
#pragma unroll
  for (int warp = 0; warp < kProgramWarps; ++warp) sum += sums[parity][warp][half][i][lane];
  return sum;
}

// Does with a value of a tile what the product is for. `other`: of the row eight further on.
__device__ inline void leave_value(const ProgramProduct& product, int tile, int part, int row,
                                   int column, float value, float other) {
  const bool is_gated = product.is_gated != 0;
  const int at_row = tile * (is_gated ? kBoxRows : kProgramTile) + row;
  if (at_row >= (is_gated ? product.m / 2 : product.m)) return;
  const int64_t at = column * product.out_stride + at_row;
  if (product.sums != nullptr) {
    __stcg(product.sums + static_cast<int64_t>(part * product.rows + column) * product.m + at_row,
           value);
  } else if (is_gated) {
    const float activated = gelu_tanh_mul<bfloat16>(to_float(from_float<bfloat16>(value)),
                                                    to_float(from_float<bfloat16>(other)));
    static_cast<bfloat16*>(product.out)[at] = from_float<bfloat16>(activated);
  } else if (product.is_float32 != 0) {
    static_cast<float*>(product.out)[at] = value;
  } else {
    static_cast<bfloat16*>(product.out)[at] = from_float<bfloat16>(value);
  }
}

// The tiles that the warps have sums of: the same one twice, or two, or one and -1.
struct Tiles {
  int first;
  int second;

  // No array, which would lie in local memory.
  __device__ int of(int half) const { return half == 0 ? first : second; }
};

// Adds up what the warps have and leaves it, by all threads.
__device__ inline void leave_tiles(const ProgramProduct& product, const ProductSums& sums,
                                   int parity, const Tiles& tiles, int part) {
  const TilePlace place;
  const int tile = tiles.of(place.half);
  const int column = place.column + (product.rows > 8 ? place.half * 8 : 0);
  const bool is_gated = product.is_gated != 0;
  if (tile < 0 || column >= product.rows || (is_gated && place.row >= kBoxRows)) return;
  const float value = add_up(sums, parity, place.half, place.i);
  const float other = is_gated ? add_up(sums, parity, place.half, place.i + 2) : 0.0f;
  leave_value(product, tile, part, place.row, column, value, other);
}

// The same of up to eight rows of x into the places where tiles wait for their low-rank parts.
__device__ inline void keep_tiles(const ProgramProduct& product, const ProductSums& sums,
                                  int parity, const Tiles& tiles, LowRank& low_rank) {
  const TilePlace place;
#pragma unroll 1
  for (int half = 0; half < 2 && tiles.of(half) >= 0; ++half) {
    TileValues& values = low_rank.add_tile(tiles.of(half));
    if (half != place.half || place.column >= product.rows) continue;
    values[place.i][threadIdx.x % 32] = add_up(sums, parity, half, place.i);
  }
}

// Leaves a tile that has them, by one warp.
__device__ inline void leave_pending(const ProgramProduct& product, const PendingTile& pending,
                                     int part) {
  const bool is_gated = product.is_gated != 0;
  const int rows = is_gated ? kBoxRows : kProgramTile;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) % 32; i < rows * product.rows; i += 32) {
    const int row = i % rows;
    const int column = i / rows;
    const float other = is_gated ? value_at(&pending.values, row + kBoxRows, column) : 0.0f;
    leave_value(product, pending.tile, part, row, column, value_at(&pending.values, row, column),
                other);
  }
}

// A warp's sums of a tile: for eight rows of x each, of the first 32 of every 64 terms and of the
// others.
using WarpSums = float[kProgramRowTiles][2][4];

__device__ inline void store_sums(TileValues& to, const float (&sums)[2][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < 4; ++i) to[i][lane] = sums[0][i] + sums[1][i];
}

// A warp's rounds of a product, one after the other.
struct WarpRounds {
  const Ring& ring;
  RingPlace place;  // of the round after `round`
  Round round;      // the next one, whose weights are here
  uint4 weights[2][2];
  bool has_next = true;  // whether there is one

  __device__ WarpRounds(const Ring& its_ring, const RingPlace& its_place)
      : ring(its_ring), place(its_place), round(take(ring, place, weights)) {}

  // The products of all rounds of this tile. `x` is the lane's; its first element is number `first`
  // of the n of the part. `rows` of x, less the lane's own; eight rows further on lies another, if
  // it is more than eight.
  __device__ void multiply(WarpSums& c, const bfloat16* x, int stride, int rows, bool has_second,
                           int first, int n) {
    const uint4 zero = make_uint4(0, 0, 0, 0);
    const int tile = round.tile;
#pragma unroll 1
    do {
      uint4 next[2][2];
      const int step = round.step;
      has_next = round.is_last == 0;
      if (has_next) round = take(ring, place, next);
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const int at = step * kProgramRound + s * 32;
        // Beyond the last element weights are zero, and x is whatever lies there.
        const bool has_element = at + first < n;
        const auto load_x = [&](int row) {
          return has_element && row < rows ? *reinterpret_cast<const uint4*>(x + row * stride + at)
                                           : zero;
        };
        const uint4 low = weights[s][0];
        const uint4 high = weights[s][1];
        const uint32_t a0[4] = {low.x, high.x, low.y, high.y};
        const uint32_t a1[4] = {low.z, high.z, low.w, high.w};
        const uint4 b = load_x(0);
        mma<bfloat16>(c[0][s], a0, b.x, b.y);
        mma<bfloat16>(c[0][s], a1, b.z, b.w);
        if (has_second) {
          const uint4 second = load_x(8);
          mma<bfloat16>(c[1][s], a0, second.x, second.y);
          mma<bfloat16>(c[1][s], a1, second.z, second.w);
        }
        weights[s][0] = next[s][0];
        weights[s][1] = next[s][1];
      }
    } while (has_next && round.tile == tile);
  }
};

// `next_place`: of the ring, where the block's next round comes.
__device__ inline void run_product(const ProgramProduct& product, const Ring& ring,
                                   RingPlace& next_place, bfloat16* staged, ProductSums& sums,
                                   LoraRoom* lora_room) {
  const Share share(product);
  if (product.in_place == 0) {
    if (share.part < product.parts) stage_x(product, share, staged);
    sync_block();
  }
  LowRank low_rank(product, share.part, lora_room);
  if (share.first_tile >= product.tiles) return low_rank.meet();
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int first = warp * 64 + lane % 4 * 8;
  const int stride = x_stride(product);
  const int n = product.n - share.part * product.part_steps * kProgramRound;
  const bool has_second = product.rows > 8;
  const bfloat16* x = staged + lane / 4 * stride + first;
  WarpRounds rounds(ring, next_place);
  int parity = 0;
#pragma unroll 1
  do {
    Tiles tiles{rounds.round.tile, -1};
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      if (half == 1) tiles.second = rounds.round.tile;
      WarpSums c = {};
      rounds.multiply(c, x, stride, product.rows - lane / 4, has_second, first, n);
      store_sums(sums[parity][warp][half], c[0]);
      if (has_second) {
        store_sums(sums[parity][warp][1], c[1]);
        tiles.second = tiles.first;
      }
      if (has_second || !rounds.has_next) break;
    }
    sync_block();
    if (low_rank.has_any()) {
      keep_tiles(product, sums, parity, tiles, low_rank);
      if (!rounds.has_next || low_rank.is_full()) {
        low_rank.finish(
            [&](const PendingTile& pending) { leave_pending(product, pending, share.part); });
      }
    } else {
      leave_tiles(product, sums, parity, tiles, share.part);
    }
    parity ^= 1;
  } while (rounds.has_next);
  if (threadIdx.x == 0) next_place = rounds.place;
}

// out from the parts of a product.
__device__ inline void run_sum(const ProgramSum& sum) {
  const int64_t all = int64_t{sum.rows} * sum.m;
  const int stride = static_cast<int>(gridDim.x) * kProgramThreads;
#pragma unroll 1
  for (int64_t i = int64_t{blockIdx.x} * kProgramThreads + threadIdx.x; i < all; i += stride) {
    float value = 0.0f;
#pragma unroll 4
    for (int part = 0; part < sum.parts; ++part) value += __ldcg(sum.sums + part * all + i);
    const int64_t at = i / sum.m * sum.out_stride + i % sum.m;
    if (sum.is_float32 != 0) {
      static_cast<float*>(sum.out)[at] = value;
    } else {
      static_cast<bfloat16*>(sum.out)[at] = from_float<bfloat16>(value);
    }
  }
}

}  // namespace lorax::cuda
