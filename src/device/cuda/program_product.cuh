// Products of a program.
//
// As in skinny_linear.cu: out^T = weight * x^T on tensor cores, lane (g, t) takes 8 neighbouring
// elements 8t .. 8t + 7 of every 32 of rows g and g + 8, warp w the elements 64w .. 64w + 63 of
// every 512. But the weights come by way of shared memory, where copies are under way ahead of
// time.
#pragma once

#include "device/cuda/gelu.cuh"
#include "device/cuda/hopper.cuh"
#include "device/cuda/mma.cuh"
#include "device/cuda/program_blocks.cuh"
#include "device/cuda/vector.cuh"

namespace lorax::cuda {

// Rows of a slot lie half the banks apart.
constexpr int kSlotRowBytes = kProgramRound * 2 + 64;
constexpr int kSlotBytes = kProgramTile * kSlotRowBytes;

// The rounds [begin, end) of the place `place`, of which there are as many as blocks: the same
// count each, and one more of the first ones.
struct Share {
  int begin;
  int end;
};

__device__ inline Share share_of(const ProgramProduct& product, int place) {
  const auto begin_of = [&](int at) {
    return at * product.rounds_each + min(at, product.rounds_left);
  };
  return {begin_of(place), begin_of(place + 1)};
}

__device__ inline int place_of(const ProgramProduct& product) {
  const unsigned place = blockIdx.x + product.rotation;
  return static_cast<int>(place >= gridDim.x ? place - gridDim.x : place);
}

// Weights on their way: slots that the feeding warp has the copy engine fill, as far ahead as there
// are slots, and that the other warps empty. Those who read and those who copy never wait for each
// other's instructions, only for full and for empty slots: while blocks wait for each other between
// instructions, the slots fill up, and afterwards they are taken as fast as shared memory gives.
struct Ring {
  uint32_t slots;     // in shared memory, kSlotBytes each
  uint32_t barriers;  // of 8 bytes: for each slot, whether it is full; then, whether it is empty
  int depth;

  __device__ uint32_t slot(int at) const { return slots + at * kSlotBytes; }
  __device__ uint32_t full(int at) const { return barriers + at * 8; }
  __device__ uint32_t empty(int at) const { return barriers + (depth + at) * 8; }

  __device__ void init() const {
    for (int at = 0; at < depth; ++at) {
      init_barrier(full(at), 1);
      init_barrier(empty(at), kProgramWarps);
    }
    publish_barriers();
  }
};

// A place in the ring: slots are used in turn.
struct RingPlace {
  int at = 0;
  uint32_t parity = 0;  // of the barriers' phase

  __device__ void advance(const Ring& ring) {
    if (++at == ring.depth) {
      at = 0;
      parity ^= 1;
    }
  }
};

// Rounds that are under way at a time: what the memory's latency asks for. More would only queue up
// in front of what instructions load meanwhile.
constexpr int kUnderWay = 3;

// Has the rounds of all products of this block copied, by one warp.
__device__ inline void feed(const ProgramArgs& args, const Ring& ring) {
  const int lane = threadIdx.x % 32;
  RingPlace place;
  RingPlace arriving;  // of the oldest round under way
  int under_way = 0;
  for (int i = 0; i < args.n_products; ++i) {
    const ProgramProduct product = args.products[i];
    const bool is_gated = product.is_gated != 0;
    const int rows = is_gated ? product.m / 2 : product.m;
    // In a gated product the second half of a tile holds the rows m / 2 further on than the first.
    // Beyond the last row the last one stands.
    const auto row_of = [&](int tile) {
      const int row = is_gated ? tile * 8 + lane % 8 : tile * kProgramTile + lane;
      return static_cast<const bfloat16*>(product.weight) +
             static_cast<int64_t>(min(row, rows - 1) + (is_gated && lane >= 8 ? rows : 0)) *
                 product.n;
    };
    const Share share = share_of(product, place_of(product));
    int tile = share.begin / product.steps;
    int step = share.begin - tile * product.steps;
    const bfloat16* row = row_of(tile);
#pragma unroll 1
    for (int round = share.begin; round < share.end; ++round) {
      const int first = step * kProgramRound;
      const int bytes = min(kProgramRound, product.n - first) * static_cast<int>(sizeof(bfloat16));
      if (under_way == kUnderWay) {
        wait(ring.full(arriving.at), arriving.parity);
        arriving.advance(ring);
      } else {
        ++under_way;
      }
      wait(ring.empty(place.at), place.parity ^ 1);
      if (lane == 0) arrive_expecting(ring.full(place.at), kProgramTile * bytes);
      __syncwarp();
      if (lane < kProgramTile) {
        copy_bytes(ring.slot(place.at) + lane * kSlotRowBytes, row + first, bytes,
                   ring.full(place.at));
      }
      place.advance(ring);
      if (++step == product.steps) {
        step = 0;
        row = row_of(++tile);
      }
    }
  }
}

// The lane's weights of the next round: those of row g, then of row g + 8, of the first 32 elements
// of the warp, then of the next.
__device__ inline void take(const Ring& ring, RingPlace& place, uint4 (&weights)[2][2]) {
  const int lane = threadIdx.x % 32;
  const uint32_t from =
      ring.slot(place.at) + lane / 4 * kSlotRowBytes + threadIdx.x / 32 * 128 + lane % 4 * 16;
  wait(ring.full(place.at), place.parity);
#pragma unroll
  for (int s = 0; s < 2; ++s) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      weights[s][half] = load_shared(from + half * 8 * kSlotRowBytes + s * 64);
    }
  }
  __syncwarp();
  if (lane == 0) arrive(ring.empty(place.at));
  place.advance(ring);
}

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

// Adds up what the warps, and other blocks, have of a tile, by one warp; or leaves it for the block
// that has the tile's first round.
__device__ inline void finish_tile(const ProgramProduct& product, const ProgramArgs& args,
                                   uint32_t number, const float (&sums)[kProgramWarps][4][32],
                                   int tile, bool is_first, bool is_last) {
  const int lane = threadIdx.x % 32;
  const int place = place_of(product);
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
      const float* from = &sums[0][tile_row / 8 * 2 + column % 2][tile_row % 8 * 4 + column / 2];
      float sum = 0.0f;
#pragma unroll
      for (int warp = 0; warp < kProgramWarps; ++warp) sum += from[warp * 4 * 32];
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
      const float activated = gelu_tanh_mul(to_float(from_float<bfloat16>(gate)),
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

// `number`: of the product, from 1.
__device__ inline void run_product(const ProgramProduct& product, const ProgramArgs& args,
                                   uint32_t number, const Ring& ring, RingPlace& place,
                                   bfloat16* staged, ProductSums& sums) {
  if (product.in_place == 0) {
    stage_x(product, staged);
    sync_block();
  }
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const Share share = share_of(product, place_of(product));
  const int steps = product.steps;
  const int n = product.n;
  const int first = warp * 64 + lane % 4 * 8;
  const bool has_row = lane / 4 < product.rows;
  const bfloat16* x = staged + lane / 4 * (n + kProgramXPad) + first;
  const uint4 zero = make_uint4(0, 0, 0, 0);
  int tile = share.begin / steps;
  int step = share.begin - tile * steps;
  uint4 weights[2][2];
  if (share.begin < share.end) take(ring, place, weights);
#pragma unroll 1
  for (int round = share.begin; round < share.end; ++tile) {
    const bool is_first = step == 0;
    float c[2][4] = {};
#pragma unroll 1
    do {
      uint4 next[2][2];
      const bool has_next = round + 1 < share.end;
      if (has_next) take(ring, place, next);
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const int at = step * kProgramRound + s * 32;
        const bool is_inside = at + first < n;  // what lies beyond is of an earlier round
        const uint4 b = has_row && is_inside ? *reinterpret_cast<const uint4*>(x + at) : zero;
        const uint4 low = is_inside ? weights[s][0] : zero;
        const uint4 high = is_inside ? weights[s][1] : zero;
        const uint32_t a0[4] = {low.x, high.x, low.y, high.y};
        const uint32_t a1[4] = {low.z, high.z, low.w, high.w};
        mma<bfloat16>(c[s], a0, b.x, b.y);
        mma<bfloat16>(c[s], a1, b.z, b.w);
        weights[s][0] = next[s][0];
        weights[s][1] = next[s][1];
      }
      ++round;
      ++step;
    } while (step < steps && round < share.end);
    const bool is_last = step == steps;
    step = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[tile % 2][warp][i][lane] = c[0][i] + c[1][i];
    sync_block();
    if (warp == tile % kProgramWarps) {
      finish_tile(product, args, number, sums[tile % 2], tile, is_first, is_last);
    }
  }
}

}  // namespace lorax::cuda
