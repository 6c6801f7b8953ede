// How attention_prefill_hopper.cu cuts its work into blocks.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "device/cuda/ops/kernels.h"

namespace lorax::cuda {

constexpr int kWarpgroupRows = 64;
constexpr int kConsumers = 2;  // warpgroups
constexpr int kRows = kWarpgroupRows * kConsumers;
constexpr int kTokens = 16;  // of a copy: all lie in one page

// Which tile of rows a block takes. Blocks are handed out sequence by sequence; of a sequence
// `heads_at_once` key/value heads, whose keys and values fit in the L2 cache together, are walked
// side by side, their last tiles first: these see the most keys.
struct Work {
  int sequence;  // -1: none is left for this block
  int kv_head;
  int tile;
};

// Sequences of one row are attention_decode's.
__host__ __device__ inline int tiles_of(int rows, int group) {
  return rows > 1 ? (rows * group + kRows - 1) / kRows : 0;
}

// By every warp on its own, 32 sequences at a time.
inline __device__ Work find_work(const AttentionArgs& args, int heads_at_once) {
  const int lane = threadIdx.x % 32;
  const int group = args.heads / args.kv_heads;
  int block = blockIdx.x;
  for (int first = 0; first < args.sequences; first += 32) {
    const int sequence = first + lane;
    const int own =
        sequence < args.sequences
            ? tiles_of(args.cu_seqlens_q[sequence + 1] - args.cu_seqlens_q[sequence], group) *
                  args.kv_heads
            : 0;
    int up_to = own;  // blocks of sequences [first, sequence]
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int before = __shfl_up_sync(0xffffffffu, up_to, distance);
      if (lane >= distance) up_to += before;
    }
    const unsigned beyond = __ballot_sync(0xffffffffu, up_to > block);
    if (beyond == 0) {
      block -= __shfl_sync(0xffffffffu, up_to, 31);
      continue;
    }
    const int found = __ffs(static_cast<int>(beyond)) - 1;
    const int blocks = __shfl_sync(0xffffffffu, own, found);
    block -= __shfl_sync(0xffffffffu, up_to, found) - blocks;
    const int tiles = blocks / args.kv_heads;
    const int first_head = block / (heads_at_once * tiles) * heads_at_once;
    const int heads = min(heads_at_once, args.kv_heads - first_head);
    block -= first_head * tiles;
    return {first + found, first_head + block % heads, tiles - 1 - block / heads};
  }
  return {-1, 0, 0};
}

// What a block works on.
struct BlockRange {
  const int32_t* block_table;
  int kv_head;
  int group;        // query heads per key/value head
  int packed_rows;  // of the sequence
  int first_row;    // first packed row of the block
  int first_query;  // row of the step where the sequence begins
  int offset;       // absolute position of the sequence's first query row
  int window;
  int begin;  // keys [begin, end) are seen by some row of the block
  int end;

  // The last key that a row sees, which is its own; -1 if the row does not exist.
  __device__ int last_seen(int packed_row) const {
    return packed_row < packed_rows ? offset + packed_row / group : -1;
  }
  // The first key that a row sees whose last one this is.
  __device__ int first_seen(int last) const { return window > 0 ? max(0, last - window + 1) : 0; }
  // The first key of tile 0 begins a copy.
  __device__ int first_key() const { return begin / kTokens * kTokens; }
  // Of so many keys each.
  __device__ int tiles(int keys) const { return (end - first_key() + keys - 1) / keys; }
};

}  // namespace lorax::cuda
