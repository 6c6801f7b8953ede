// The weights of a program's products on their way through shared memory.
#pragma once

#include "device/cuda/megakernel/program_blocks.cuh"
#include "device/cuda/ops/launch.cuh"
#include "device/cuda/ptx/hopper.cuh"
#include "device/cuda/ptx/mma.cuh"

namespace lorax::cuda {

// A round lies in a slot as two boxes, of the tile's first and last eight rows: panels of 64
// elements with the 128-byte swizzle, one for each warp.
constexpr int kPanels = kProgramRound / 64;
constexpr int kBoxRows = kProgramBoxRows;
constexpr int kPanelBytes = kBoxRows * 128;
constexpr int kBoxBytes = kPanels * kPanelBytes;
constexpr int kSlotBytes = kProgramTile / kBoxRows * kBoxBytes;
static_assert(kPanels == kProgramWarps);

// What a block has of a product: tiles, from the first one on, of one part.
struct Share {
  int part;
  int first_tile;  // beyond the last: the block has none
  int steps;       // rounds of a tile

  __device__ explicit Share(const ProgramProduct& product) {
    unsigned place = blockIdx.x + product.rotation;
    if (place >= gridDim.x) place -= gridDim.x;
    part = static_cast<int>(place) / product.part_blocks;
    first_tile =
        part < product.parts ? static_cast<int>(place) % product.part_blocks : product.tiles;
    steps = min(product.part_steps, product.steps - part * product.part_steps);
  }
};

// What a slot holds.
struct alignas(16) Round {
  int tile;
  int step;     // of the part
  int is_last;  // of this block's share of the product
};

// Weights on their way: slots that the feeding thread has the copy engine fill, as far ahead as
// there are slots, and that the other warps empty. Those who read and those who copy never wait for
// each other's instructions, only for full and for empty slots: while blocks wait for each other
// between instructions, the slots fill up, and afterwards they are taken as fast as shared memory
// gives.
struct Ring {
  Round* rounds;      // in shared memory, of each slot
  uint32_t slots;     // in shared memory, kSlotBytes each, at a multiple of 1,024
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
      copy_tiles(product, args.maps[i], args.sync->claims);
    }
  }

 private:
  // The first tile is the block's own. Further ones go to whoever comes for them first, as memory
  // does not serve all multiprocessors equally fast; the sums do not depend on it. Where tiles are
  // too short for that, they are dealt out.
  __device__ void copy_tiles(const ProgramProduct& product, const CUtensorMap& weight,
                             uint32_t* claims) {
    const Share share(product);
    const int first_step = share.part * product.part_steps;
    const int last_step = share.steps - 1;
    int tile = share.first_tile;
    int next = tile;
#pragma unroll 1
    while (tile < product.tiles) {
      if (last_step > 0) copy(product, weight, {tile, 0, 0}, first_step);
      next = product.claims < 0 ? tile + product.part_blocks
                                : claim(claims + product.claims + share.part, product.part_blocks);
#pragma unroll 1
      for (int step = 1; step < last_step; ++step) {
        copy(product, weight, {tile, step, 0}, first_step);
      }
      copy(product, weight, {tile, last_step, next >= product.tiles ? 1 : 0}, first_step);
      tile = next;
    }
  }

  __device__ int claim(uint32_t* claims, int part_blocks) {
    // Launches before this one have left the claims at zero.
    if (!has_waited_) wait_for_previous();
    has_waited_ = true;
    return part_blocks + static_cast<int>(atomicAdd(claims, 1u));
  }

  // Into the next slot, when there is room.
  __device__ void copy(const ProgramProduct& product, const CUtensorMap& weight, const Round& round,
                       int first_step) {
    if (under_way_ == kUnderWay) {
      wait(ring_.full(arriving_.at), arriving_.parity);
      arriving_.advance(ring_);
    } else {
      ++under_way_;
    }
    wait(ring_.empty(place_.at), place_.parity ^ 1);
    ring_.rounds[place_.at] = round;
    const uint32_t full = ring_.full(place_.at);
    const uint32_t slot = ring_.slot(place_.at);
    // In a gated product the second half of a tile holds the rows m / 2 further on than the first.
    const bool is_gated = product.is_gated != 0;
    const int row = round.tile * (is_gated ? kBoxRows : kProgramTile);
    const int second_row = row + (is_gated ? product.m / 2 : kBoxRows);
    arrive_expecting(full, kSlotBytes);
    const int panel = (first_step + round.step) * kPanels;
    copy_box(slot, weight, 0, row, panel, full);
    copy_box(slot + kBoxBytes, weight, 0, second_row, panel, full);
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

// A tile's values for eight rows of x as one warp's fragments lie in memory, and the place of row r
// of the tile and row `column` of x in those of all rows.
using TileValues = float[4][32];
template <typename Values>
__device__ inline auto& value_at(Values* values, int row, int column) {
  return values[column / 8][row / kBoxRows * 2 + column % 2]
               [fragment_of_row(row % kBoxRows) * 4 + column % 8 / 2];
}

// The lane's weights of the next round: those of a row of the first box, then of the second, of the
// first 32 elements of the warp, then of the next.
__device__ inline Round take(const Ring& ring, RingPlace& place, uint4 (&weights)[2][2]) {
  const int lane = threadIdx.x % 32;
  const int row = row_of_fragment(lane / 4);
  const uint32_t from = ring.slot(place.at) + threadIdx.x / 32 * kPanelBytes + row * 128;
  wait(ring.full(place.at), place.parity);
  const Round round = ring.rounds[place.at];
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

}  // namespace lorax::cuda
