// Products of a program.
//
// As in skinny_linear.cu: out^T = weight * x^T on tensor cores, lane (g, t) takes 8 neighbouring
// elements 8t .. 8t + 7 of every 32 of two rows, warp w the elements 64w .. 64w + 63 of every 512.
// But the weights come by way of shared memory, where copies are under way ahead of
// time.
#pragma once

#include "device/cuda/gelu.cuh"
#include "device/cuda/hopper.cuh"
#include "device/cuda/launch.cuh"
#include "device/cuda/mma.cuh"
#include "device/cuda/program_blocks.cuh"
#include "device/cuda/vector.cuh"

namespace lorax::cuda {

// A round lies in a slot as two boxes, of the tile's first and last eight rows: panels of 64
// elements with the 128-byte swizzle, one for each warp.
constexpr int kPanels = kProgramRound / 64;
constexpr int kBoxRows = kProgramBoxRows;
constexpr int kPanelBytes = kBoxRows * 128;
constexpr int kBoxBytes = kPanels * kPanelBytes;
constexpr int kSlotBytes = kProgramTile / kBoxRows * kBoxBytes;
static_assert(kPanels == kProgramWarps);

// The rounds [begin, end) of the place `place`, of which there are as many as blocks: the same
// count of units each, and one more of the first ones.
struct Share {
  int begin;
  int end;
};

__device__ inline Share share_of(const ProgramProduct& product, int place) {
  const auto begin_of = [&](int at) {
    return (at * product.units_each + min(at, product.units_left)) * product.unit;
  };
  return {begin_of(place), begin_of(place + 1)};
}

__device__ inline int place_of(const ProgramProduct& product) {
  const unsigned place = blockIdx.x + product.rotation;
  return static_cast<int>(place >= gridDim.x ? place - gridDim.x : place);
}

// What a slot holds; comes with it.
struct Round {
  int tile;
  int step;
  int is_last;  // of this block's share of the product
};

// Weights on their way: slots that the feeding thread has the copy engine fill, as far ahead as
// there are slots, and that the other warps empty. Those who read and those who copy never wait for
// each other's instructions, only for full and for empty slots: while blocks wait for each other
// between instructions, the slots fill up, and afterwards they are taken as fast as shared memory
// gives.
struct Ring {
  uint32_t rounds;    // in shared memory: of each slot its Round, 16 bytes
  uint32_t slots;     // kSlotBytes each, at a multiple of 1,024
  uint32_t barriers;  // of 8 bytes: for each slot, whether it is full; then, whether it is empty
  int depth;

  __device__ uint32_t round(int at) const { return rounds + at * 16; }
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
  int at;
  uint32_t parity;  // of the barriers' phase

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

// Fills the ring, by one thread.
class Feeder {
 public:
  __device__ explicit Feeder(const Ring& ring) : ring_(ring) {}

  // Has the rounds of all products of this block copied.
  __device__ void run(const ProgramArgs& args) {
    for (int i = 0; i < args.n_products; ++i) {
      const ProgramProduct product = args.products[i];
      if (i + 1 < args.n_products) prefetch_map(args.maps[i + 1]);
      if (product.unit == product.steps) {
        copy_tiles(product, args.maps[i], args.sync->claims + i);
      } else {
        copy_share(product, args.maps[i]);
      }
    }
  }

 private:
  // Whole tiles: the first is the block's own, further ones go to whoever comes for them first, as
  // memory does not serve all multiprocessors equally fast. The sums do not depend on it.
  __device__ void copy_tiles(const ProgramProduct& product, const CUtensorMap& weight,
                             uint32_t* claims) {
    const int tiles = product.units_each * static_cast<int>(gridDim.x) + product.units_left;
    int tile = place_of(product);
    while (tile < tiles) {
      const int last_step = product.steps - 1;
      if (last_step > 0) copy(product, weight, {tile, 0, 0});
      // Launches before this one have left the claims at zero.
      if (!has_waited_) wait_for_previous();
      has_waited_ = true;
      const int next = static_cast<int>(gridDim.x + atomicAdd(claims, 1u));
#pragma unroll 1
      for (int step = 1; step < last_step; ++step) copy(product, weight, {tile, step, 0});
      copy(product, weight, {tile, last_step, next >= tiles ? 1 : 0});
      tile = next;
    }
  }

  __device__ void copy_share(const ProgramProduct& product, const CUtensorMap& weight) {
    const Share share = share_of(product, place_of(product));
    int tile = share.begin / product.steps;
    int step = share.begin - tile * product.steps;
#pragma unroll 1
    for (int round = share.begin; round < share.end; ++round) {
      copy(product, weight, {tile, step, round + 1 == share.end ? 1 : 0});
      if (++step == product.steps) {
        step = 0;
        ++tile;
      }
    }
  }

  // Into the next slot, when there is room.
  __device__ void copy(const ProgramProduct& product, const CUtensorMap& weight,
                       const Round& round) {
    if (under_way_ == kUnderWay) {
      wait(ring_.full(arriving_.at), arriving_.parity);
      arriving_.advance(ring_);
    } else {
      ++under_way_;
    }
    wait(ring_.empty(place_.at), place_.parity ^ 1);
    const uint32_t full = ring_.full(place_.at);
    const uint32_t slot = ring_.slot(place_.at);
    // In a gated product the second half of a tile holds the rows m / 2 further on than the first.
    const bool is_gated = product.is_gated != 0;
    const int row = round.tile * (is_gated ? kBoxRows : kProgramTile);
    const int second_row = row + (is_gated ? product.m / 2 : kBoxRows);
    arrive_expecting(full, kSlotBytes + sizeof(uint4));
    send(ring_.round(place_.at), make_uint4(round.tile, round.step, round.is_last, 0), full);
    copy_box(slot, weight, 0, row, round.step * kPanels, full);
    copy_box(slot + kBoxBytes, weight, 0, second_row, round.step * kPanels, full);
    place_.advance(ring_);
  }

  const Ring& ring_;
  RingPlace place_{};
  RingPlace arriving_{};  // of the oldest round under way
  int under_way_ = 0;
  bool has_waited_ = false;  // for the launches before this one
};

// Of a tile's half, the row that is the fragments' row g: such that lanes which read at the same
// time find theirs in different banks.
__device__ inline int row_of_fragment(int g) { return g % 2 * 4 + g / 2; }
__device__ inline int fragment_of_row(int row) { return row % 4 * 2 + row / 4; }

// The lane's weights of the next round: those of a row of the first box, then of the second, of the
// first 32 elements of the warp, then of the next.
__device__ inline Round take(const Ring& ring, RingPlace& place, uint4 (&weights)[2][2]) {
  const int lane = threadIdx.x % 32;
  const int row = row_of_fragment(lane / 4);
  const uint32_t from = ring.slot(place.at) + threadIdx.x / 32 * kPanelBytes + row * 128;
  wait(ring.full(place.at), place.parity);
  const uint4 packed = load_shared(ring.round(place.at));
  const Round round = {static_cast<int>(packed.x), static_cast<int>(packed.y),
                       static_cast<int>(packed.z)};
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    const uint32_t chunk = ((s * 4 + lane % 4) ^ row) * 16;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      weights[s][half] = load_shared(from + half * kBoxBytes + chunk);
    }
  }
  __syncwarp();
  if (lane == 0) arrive(ring.empty(place.at));
  place.advance(ring);
  return round;
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

__device__ inline float sum_of_warps(const float (&sums)[kProgramWarps][4][32], int tile_row,
                                     int column) {
  const int lane = fragment_of_row(tile_row % 8) * 4 + column / 2;
  float sum = 0.0f;
#pragma unroll
  for (int warp = 0; warp < kProgramWarps; ++warp) {
    sum += sums[warp][tile_row / 8 * 2 + column % 2][lane];
  }
  return sum;
}

// What the warps have of a tile, by one warp, for the norm that follows.
__device__ inline void leave_half(const ProgramProduct& product,
                                  const float (&sums)[kProgramWarps][4][32], int tile,
                                  bool is_first, bool is_last) {
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) % 32; i < kProgramTile * product.rows; i += 32) {
    const int tile_row = i % kProgramTile;
    const int column = i / kProgramTile;
    const int row = tile * kProgramTile + tile_row;
    if (row >= product.m) continue;
    const float sum = sum_of_warps(sums, tile_row, column);
    float* first = product.halves + column * product.m + row;
    float* last = first + product.rows * product.m;
    __stcg(is_first ? first : last, sum);
    if (is_first && is_last) __stcg(last, 0.0f);
  }
}

// Adds up what the warps, and other blocks, have of a tile, by one warp; or leaves it for the block
// that has the tile's first round.
__device__ inline void finish_tile(const ProgramProduct& product, const ProgramArgs& args,
                                   const float (&sums)[kProgramWarps][4][32], int tile,
                                   bool is_first, bool is_last) {
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
      float sum = sum_of_warps(sums, tile_row, column);
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

// `next_place`: of the ring, where the block's next round comes.
__device__ inline void run_product(const ProgramProduct& product, const ProgramArgs& args,
                                   const Ring& ring, RingPlace& next_place, bfloat16* staged,
                                   ProductSums& sums) {
  if (product.in_place == 0) {
    stage_x(product, staged);
    sync_block();
  }
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const Share share = share_of(product, place_of(product));
  if (share.begin == share.end) return;
  const int n = product.n;
  const int first = warp * 64 + lane % 4 * 8;
  const bool has_row = lane / 4 < product.rows;
  const bfloat16* x = staged + lane / 4 * (n + kProgramXPad) + first;
  const uint4 zero = make_uint4(0, 0, 0, 0);
  RingPlace place = next_place;
  uint4 weights[2][2];
  Round round = take(ring, place, weights);
  int parity = 0;
  int last_step = 0;
  bool has_next;
#pragma unroll 1
  do {
    const Round tile = round;
    float c[2][4] = {};
#pragma unroll 1
    do {
      uint4 next[2][2];
      const Round current = round;
      has_next = current.is_last == 0;
      if (has_next) round = take(ring, place, next);
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const int at = current.step * kProgramRound + s * 32;
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
      last_step = current.step;
    } while (has_next && round.tile == tile.tile);
    const bool is_first = tile.step == 0;
    const bool is_last = last_step + 1 == product.steps;
    parity ^= 1;
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[parity][warp][i][lane] = c[0][i] + c[1][i];
    sync_block();
    if (warp != tile.tile % kProgramWarps) continue;
    if (product.halves != nullptr) {
      leave_half(product, sums[parity], tile.tile, is_first, is_last);
    } else {
      finish_tile(product, args, sums[parity], tile.tile, is_first, is_last);
    }
  } while (has_next);
  if (threadIdx.x == 0) next_place = place;
}

}  // namespace lorax::cuda
