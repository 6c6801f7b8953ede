// Products of a program.
//
// As in skinny_linear.cu: out^T = weight * x^T on tensor cores, lane (g, t) takes 8 neighbouring
// elements 8t .. 8t + 7 of every 32 of two rows, warp w the elements 64w .. 64w + 63 of every 512.
// But the weights come by way of the ring, where copies are under way ahead of time.
#pragma once

#include "device/cuda/gelu.cuh"
#include "device/cuda/mma.cuh"
#include "device/cuda/program_blocks.cuh"
#include "device/cuda/program_lora.cuh"
#include "device/cuda/program_ring.cuh"
#include "device/cuda/vector.cuh"

namespace lorax::cuda {

// The sums of a tile of each warp, for two tiles in turn.
using ProductSums = float[2][kProgramWarps][4][32];

// x of a product into shared memory.
__device__ inline void stage_x(const ProgramProduct& product, bfloat16* staged) {
  const int chunks = product.n / 8;
  const int stride = product.n + kProgramXPad;
  const bfloat16* x = static_cast<const bfloat16*>(product.x);
  for (int row = 0; row < product.rows; ++row) {
    const uint4* from = reinterpret_cast<const uint4*>(x + row * product.x_stride);
    uint4* to = reinterpret_cast<uint4*>(staged + row * stride);
#pragma unroll 4
    for (int i = threadIdx.x; i < chunks; i += kProgramThreads) to[i] = __ldcg(from + i);
  }
}

// Adds up what the warps have of a tile, by one warp; `values` may be the first one's.
__device__ inline void add_up(const float (&sums)[kProgramWarps][4][32], int rows,
                              TileValues& values) {
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) % 32; i < kProgramTile * rows; i += 32) {
    const float* from = &value_at(sums[0], i % kProgramTile, i / kProgramTile);
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kProgramWarps; ++warp) sum += from[warp * 4 * 32];
    value_at(values, i % kProgramTile, i / kProgramTile) = sum;
  }
  __syncwarp();
}

// Leaves a block's sums of a tile for the norm that follows, by one warp.
__device__ inline void leave_half(const ProgramProduct& product, const TileValues& values, int tile,
                                  bool is_first, bool is_last) {
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) % 32; i < kProgramTile * product.rows; i += 32) {
    const int tile_row = i % kProgramTile;
    const int column = i / kProgramTile;
    const int row = tile * kProgramTile + tile_row;
    if (row >= product.m) continue;
    float* first = product.halves + column * product.m + row;
    float* last = first + product.rows * product.m;
    __stcg(is_first ? first : last, value_at(values, tile_row, column));
    if (is_first && is_last) __stcg(last, 0.0f);
  }
}

// Adds up what blocks have of a tile, by one warp, and writes the output; or leaves the block's
// sums for the one that has the tile's first round.
__device__ inline void finish_tile(const ProgramProduct& product, const ProgramArgs& args,
                                   const TileValues& values, int tile, bool is_first,
                                   bool is_last) {
  const int lane = threadIdx.x % 32;
  const int place = place_of(product);
  const uint32_t number = static_cast<uint32_t>(product.number);
  int others = 0;  // places that have the rest of the tile
  if (is_first && !is_last) {
    const int tile_end = (tile + 1) * product.steps;
    do {
      ++others;
      if (lane == 0) {
        while (load_acquired(args.sync->pieces + place + others) != number) {
        }
      }
    } while (share_of(product, place + others).end < tile_end);
    __syncwarp();
  }
  constexpr int kPiece = kProgramTile * static_cast<int>(kProgramRows);
  float* pieces = args.pieces + place * kPiece;
  const bool is_gated = is_first && product.is_gated != 0;
  const int log_rows = is_gated ? 3 : 4;  // of out in this tile
  const int rows = 1 << log_rows;
#pragma unroll 1
  for (int i = lane; i < rows * product.rows; i += 32) {
    const int row = i & (rows - 1);
    const int column = i >> log_rows;
    float value = 0.0f;
    float gate = 0.0f;
#pragma unroll 1
    for (int half = 0; half <= (is_gated ? 1 : 0); ++half) {  // the gate, then the other
      const int tile_row = row + half * 8;
      float sum = value_at(values, tile_row, column);
#pragma unroll 1
      for (int other = 1; other <= others; ++other) {
        sum += __ldcg(pieces + other * kPiece + column * kProgramTile + tile_row);
      }
      gate = value;
      value = sum;
    }
    const int64_t at = column * product.out_stride + tile * rows + row;
    if (!is_first) {
      __stcg(pieces + i, value);
    } else if (tile * rows + row >= (is_gated ? product.m / 2 : product.m)) {
      continue;
    } else if (is_gated) {
      const float activated = gelu_tanh_mul<bfloat16>(to_float(from_float<bfloat16>(gate)),
                                                      to_float(from_float<bfloat16>(value)));
      static_cast<bfloat16*>(product.out)[at] = from_float<bfloat16>(activated);
    } else if (product.is_float32 != 0) {
      static_cast<float*>(product.out)[at] = value;
    } else {
      static_cast<bfloat16*>(product.out)[at] = from_float<bfloat16>(value);
    }
  }
  if (is_first) return;
  __syncwarp();
  if (lane == 0) {
    __threadfence();
    store_released(args.sync->pieces + place, number);
  }
}

// Does with a tile's values what the product is for, by one warp.
__device__ inline void leave_tile(const ProgramProduct& product, const ProgramArgs& args,
                                  const TileValues& values, int tile, bool is_first, bool is_last) {
  if (product.halves != nullptr) {
    leave_half(product, values, tile, is_first, is_last);
  } else {
    finish_tile(product, args, values, tile, is_first, is_last);
  }
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

  // The products of all rounds of this tile. Returns the last one's step. `x` is the lane's; its
  // first element is number `first` of the n.
  __device__ int multiply(float (&c)[2][4], const bfloat16* x, bool has_row, int first, int n) {
    const uint4 zero = make_uint4(0, 0, 0, 0);
    const int tile = round.tile;
    int step;
#pragma unroll 1
    do {
      uint4 next[2][2];
      step = round.step;
      has_next = round.is_last == 0;
      if (has_next) round = take(ring, place, next);
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const int at = step * kProgramRound + s * 32;
        // Beyond the last element weights are zero, and x is whatever lies there.
        const bool has_element = has_row && at + first < n;
        const uint4 b = has_element ? *reinterpret_cast<const uint4*>(x + at) : zero;
        const uint4 low = weights[s][0];
        const uint4 high = weights[s][1];
        const uint32_t a0[4] = {low.x, high.x, low.y, high.y};
        const uint32_t a1[4] = {low.z, high.z, low.w, high.w};
        mma<bfloat16>(c[s], a0, b.x, b.y);
        mma<bfloat16>(c[s], a1, b.z, b.w);
        weights[s][0] = next[s][0];
        weights[s][1] = next[s][1];
      }
    } while (has_next && round.tile == tile);
    return step;
  }
};

// `next_place`: of the ring, where the block's next round comes.
__device__ inline void run_product(const ProgramProduct& product, const ProgramArgs& args,
                                   const Ring& ring, RingPlace& next_place, bfloat16* staged,
                                   ProductSums& sums, LoraRoom* lora_room) {
  if (product.in_place == 0) {
    stage_x(product, staged);
    sync_block();
  }
  LowRank low_rank(product, lora_room);
  const Share share = share_of(product, place_of(product));
  if (share.begin == share.end) return low_rank.meet();
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int first = warp * 64 + lane % 4 * 8;
  const bfloat16* x = staged + lane / 4 * (product.n + kProgramXPad) + first;
  WarpRounds rounds(ring, next_place);
  int parity = 0;
#pragma unroll 1
  do {
    const int tile = rounds.round.tile;
    const bool is_first = rounds.round.step == 0;
    float c[2][4] = {};
    const int last_step = rounds.multiply(c, x, lane / 4 < product.rows, first, product.n);
    const bool is_last = last_step + 1 == product.steps;
    parity ^= 1;
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[parity][warp][i][lane] = c[0][i] + c[1][i];
    sync_block();
    const bool is_mine = warp == tile % kProgramWarps;
    if (low_rank.has_any()) {
      if (is_mine) {
        add_up(sums[parity], product.rows, low_rank.add_tile(tile, is_first, is_last));
      }
      low_rank.count_tile();
      if (rounds.has_next && !low_rank.is_full()) continue;
      low_rank.finish([&](const PendingTile& pending) {
        leave_tile(product, args, pending.values, pending.tile, pending.is_first != 0,
                   pending.is_last != 0);
      });
    } else if (is_mine) {
      add_up(sums[parity], product.rows, sums[parity][0]);
      leave_tile(product, args, sums[parity][0], tile, is_first, is_last);
    }
  } while (rounds.has_next);
  if (threadIdx.x == 0) next_place = rounds.place;
}

}  // namespace lorax::cuda
