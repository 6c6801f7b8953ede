// Products of a program.
//
// As in skinny_linear.cu: out^T = weight * x^T on tensor cores, lane (g, t) takes 8 neighbouring
// elements 8t .. 8t + 7 of every 32 of rows g and g + 8. Here it also copies them to shared memory
// itself, kDepth rounds before it needs them, so that no lane waits for another's copies and a warp
// runs ahead through the products of the program as far as its ring reaches.
#pragma once

#include "device/cuda/gelu.cuh"
#include "device/cuda/mma.cuh"
#include "device/cuda/program_blocks.cuh"
#include "device/cuda/vector.cuh"

namespace lorax::cuda {

constexpr int kSlotBytes = 4 * 32 * 16;  // of a warp's round: 4 pieces of 16 bytes a lane

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

// A warp's weights on their way.
template <int kDepth>
class Ring {
 public:
  __device__ Ring(const ProgramArgs& args, uint32_t slots)
      : products_(args.products), left_(args.n_products), slots_(slots) {
    lane_ = threadIdx.x % 32;
    first_ = static_cast<int>(threadIdx.x / 32) * 64 + lane_ % 4 * 8;
    next_product();
#pragma unroll 1
    for (int i = 0; i < kDepth; ++i) issue(i);
  }

  // The lane's weights of the next round, in the order of their copies; others take their place.
  __device__ void take(uint4 (&weights)[4]) {
    wait_copies<kDepth - 1>();
    const uint32_t slot = slots_ + at_ * kSlotBytes + lane_ * 16;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(weights[i].x), "=r"(weights[i].y), "=r"(weights[i].z), "=r"(weights[i].w)
                   : "r"(slot + i * 512)
                   : "memory");
    }
    issue(at_);
    at_ = at_ + 1 == kDepth ? 0 : at_ + 1;
  }

 private:
  // Goes on to the next product of which this block has a share.
  __device__ void next_product() {
    while (left_ > 0) {
      const ProgramProduct& product = *products_;
      share_ = share_of(product, place_of(product));
      steps_ = product.steps;
      n_ = product.n;
      is_gated_ = product.is_gated != 0;
      rows_m_ = is_gated_ ? product.m / 2 : product.m;
      weight_ = static_cast<const bfloat16*>(product.weight) + first_;
      ++products_;
      --left_;
      if (share_.begin == share_.end) continue;
      tile_ = share_.begin / steps_;
      step_ = share_.begin - tile_ * steps_;
      find_rows();
      return;
    }
    share_ = {0, 0};
  }

  // In a gated product the second half of a tile holds the rows m / 2 further on than the first.
  // Beyond the last row the last one stands.
  __device__ void find_rows() {
    const int row = tile_ * (is_gated_ ? 8 : kProgramTile) + lane_ / 4;
    const int64_t low = min(row, rows_m_ - 1);
    const int64_t high = is_gated_ ? low + rows_m_ : min(row + 8, rows_m_ - 1);
    rows_[0] = weight_ + low * n_;
    rows_[1] = weight_ + high * n_;
  }

  __device__ void issue(int slot) {
    if (share_.begin < share_.end) {
      const uint32_t to = slots_ + slot * kSlotBytes + lane_ * 16;
      const int k = step_ * kProgramRound;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = k + i / 2 * 32;
        copy_async(to + i * 512, rows_[i % 2] + at, at + first_ < n_);
      }
      ++share_.begin;
      if (share_.begin == share_.end) {
        next_product();
      } else if (++step_ == steps_) {
        step_ = 0;
        ++tile_;
        find_rows();
      }
    }
    commit_copies();  // also an empty group: the count of groups is the count of rounds
  }

  const ProgramProduct* products_;  // behind the one whose rounds are issued
  int left_;                        // products behind it
  uint32_t slots_;
  int lane_;
  int first_;  // of the warp's and lane's elements of a round
  int at_ = 0;
  Share share_;
  const bfloat16* weight_;
  int n_;
  int rows_m_;  // of the weight, or of its first half
  bool is_gated_;
  int steps_;
  int tile_;
  int step_;
  const bfloat16* rows_[2];
};

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
  const auto sum_of = [&](int row, int column) {
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kProgramWarps; ++warp) {
      sum += sums[warp][row / 8 * 2 + column % 2][row % 8 * 4 + column / 2];
    }
    for (int other = 1; other <= others; ++other) {
      sum += __ldcg(pieces + other * kPiece + column * kProgramTile + row);
    }
    return sum;
  };
  if (!is_first) {
    for (int i = lane; i < kProgramTile * product.rows; i += 32) {
      __stcg(pieces + i, sum_of(i % kProgramTile, i / kProgramTile));
    }
    __syncwarp();
    if (lane == 0) {
      __threadfence();
      store_released(args.sync->pieces + place, number);
    }
    return;
  }
  if (product.is_gated != 0) {
    bfloat16* out = static_cast<bfloat16*>(product.out) + tile * 8;
    for (int i = lane; i < 8 * product.rows; i += 32) {
      const int row = i % 8;
      if (tile * 8 + row >= product.m / 2) continue;
      const float gate = to_float(from_float<bfloat16>(sum_of(row, i / 8)));
      const float up = to_float(from_float<bfloat16>(sum_of(row + 8, i / 8)));
      out[i / 8 * product.out_stride + row] = from_float<bfloat16>(gelu_tanh_mul(gate, up));
    }
    return;
  }
  for (int i = lane; i < kProgramTile * product.rows; i += 32) {
    const int row = i % kProgramTile;
    const int column = i / kProgramTile;
    if (tile * kProgramTile + row >= product.m) continue;
    const float sum = sum_of(row, column);
    const int64_t at = column * product.out_stride + tile * kProgramTile + row;
    if (product.is_float32 != 0) {
      static_cast<float*>(product.out)[at] = sum;
    } else {
      static_cast<bfloat16*>(product.out)[at] = from_float<bfloat16>(sum);
    }
  }
}

// `number`: of the product, from 1.
template <int kDepth>
__device__ void run_product(const ProgramProduct& product, const ProgramArgs& args, uint32_t number,
                            Ring<kDepth>& ring, bfloat16* staged, ProductSums& sums) {
  if (product.in_place == 0) {
    stage_x(product, staged);
    __syncthreads();
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
  for (int round = share.begin; round < share.end; ++tile) {
    const bool is_first = step == 0;
    float c[2][4] = {};
    do {
      uint4 weights[4];
      ring.take(weights);
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const int at = step * kProgramRound + s * 32;
        const uint4 b = has_row && at + first < n ? *reinterpret_cast<const uint4*>(x + at) : zero;
        const uint4 low = weights[2 * s];
        const uint4 high = weights[2 * s + 1];
        const uint32_t a0[4] = {low.x, high.x, low.y, high.y};
        const uint32_t a1[4] = {low.z, high.z, low.w, high.w};
        mma(c[s], a0, b.x, b.y);
        mma(c[s], a1, b.z, b.w);
      }
      ++round;
      ++step;
    } while (step < steps && round < share.end);
    const bool is_last = step == steps;
    step = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[tile % 2][warp][i][lane] = c[0][i] + c[1][i];
    __syncthreads();
    if (warp == tile % kProgramWarps) {
      finish_tile(product, args, number, sums[tile % 2], tile, is_first, is_last);
    }
  }
}

}  // namespace lorax::cuda
