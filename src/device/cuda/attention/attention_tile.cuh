// What the tensor-core attention kernels share: tiles of 16-bit rows in shared memory, rows of
// pages loaded into them, and the products of a 16-row tile of queries with 16 keys or values.
//
// A tile row holds kD elements (the head size rounded up to 64, 128 or 256, zeros behind it) as
// chunks of 16 bytes; chunk c of row r lies at place c ^ (r % 8), so that the eight rows of a
// matrix that ldmatrix reads lie in different banks.
#pragma once

#include "device/cuda/ops/kernels.h"
#include "device/cuda/ptx/mma.cuh"

namespace lorax::cuda {

constexpr float kLog2E = 1.4426950408889634f;

// Byte offset of chunk `chunk` of row `row`.
template <int kD>
__device__ uint32_t tile_offset(int row, int chunk) {
  return static_cast<uint32_t>((row * (kD / 8) + (chunk ^ (row & 7))) * 16);
}

// The slot of the token at `position` of the sequence with this row of the block table.
__device__ inline int slot_of(const int32_t* block_table, int block_size, int position) {
  return block_table[position / block_size] * block_size + position % block_size;
}

// Where the rows of one key/value head lie in pages [slots, kv_heads, d].
template <typename T>
struct HeadPages {
  const T* data;        // of slot 0
  int64_t slot_stride;  // kv_heads * d
  int head_size;
};

// Starts copying 16 rows into the tile at `tile`, by one warp: row i from slot `slot` of lane i,
// zeros if that is negative (such rows are not read).
template <int kD, typename T>
__device__ void load_16_rows(uint32_t tile, const HeadPages<T>& pages, int slot) {
  constexpr int kChunks = kD / 8;
  constexpr int kRowsAtOnce = 32 / kChunks;
  const int lane = threadIdx.x % 32;
  const int chunk = lane % kChunks;
  const bool inside = chunk * 8 < pages.head_size;
#pragma unroll
  for (int i = 0; i < 16; i += kRowsAtOnce) {
    const int row = i + lane / kChunks;
    const int row_slot = __shfl_sync(0xffffffffu, slot, row);
    const bool wanted = inside && row_slot >= 0;
    const T* from = wanted ? pages.data + row_slot * pages.slot_stride + chunk * 8 : pages.data;
    copy_async(tile + tile_offset<kD>(row, chunk), from, wanted);
  }
}

// The A operand: rows [0, 16) of the tile, elements [16 step, 16 step + 16).
template <int kD>
__device__ void load_a(uint32_t (&a)[4], uint32_t tile, int step) {
  const int lane = threadIdx.x % 32;
  load_matrices(a, tile + tile_offset<kD>(lane % 16, step * 2 + lane / 16));
}

// The B operands of two products with keys [0, 8) and [8, 16) of the tile: elements
// [16 step, 16 step + 16) of each; b[0], b[1] for the first, b[2], b[3] for the second.
template <int kD>
__device__ void load_keys(uint32_t (&b)[4], uint32_t tile, int step) {
  const int lane = threadIdx.x % 32;
  const int row = lane % 8 + lane / 16 * 8;
  load_matrices(b, tile + tile_offset<kD>(row, step * 2 + lane / 8 % 2));
}

// The B operands of two products over rows [0, 16) of a tile of values, for the columns
// [8 chunk, 8 chunk + 8) and the eight after them.
template <int kD>
__device__ void load_values(uint32_t (&b)[4], uint32_t tile, int chunk) {
  const int lane = threadIdx.x % 32;
  load_transposed(b, tile + tile_offset<kD>(lane % 16, chunk + lane / 16));
}

// Scores in units of log2: cap * log2(e) * tanh(x / cap) for x = scale * q.k, or without a cap
// scale * log2(e) * q.k. tanh(y) = 1 - 2 / (1 + e^2y) errs by about 2^-23 absolutely, which is
// what counts in an exponent.
struct ScoreTransform {
  float factor;  // of q.k
  float cap;     // in units of log2; 0: none

  __device__ ScoreTransform(float scale, float softcap)
      : factor(softcap > 0.0f ? 2.0f * kLog2E * scale / softcap : kLog2E * scale),
        cap(softcap * kLog2E) {}

  __device__ float operator()(float product) const {
    return cap == 0.0f ? product * factor : capped(product);
  }
  // If there is a cap.
  __device__ float capped(float product) const {
    return cap - 2.0f * cap * reciprocal_fast(1.0f + exp2_fast(product * factor));
  }
};

// Over the four lanes that share a row.
__device__ inline float row_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

__device__ inline float row_sum(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

// The running softmax of one row: exponents are relative to `top`.
struct RunningRow {
  float top = -INFINITY;
  float sum = 0.0f;  // this lane's share
};

// Takes in the largest score of a further tile. Returns what the old sums must be multiplied by and
// sets `base`, which the exponents of the tile are relative to (0 while nothing was seen).
__device__ inline float raise(RunningRow& row, float tile_top, float& base) {
  const float top = fmaxf(row.top, tile_top);
  base = top == -INFINITY ? 0.0f : top;
  const float rescale = exp2_fast(row.top - base);
  row.top = top;
  row.sum *= rescale;
  return rescale;
}

}  // namespace lorax::cuda
