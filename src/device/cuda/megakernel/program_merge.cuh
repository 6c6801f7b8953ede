// The output of a program's attention from its parts.
#pragma once

#include "device/cuda/megakernel/program_attention.cuh"

namespace lorax::cuda {

// A running softmax over parts, of four elements.
struct PartSums {
  float top = -INFINITY;
  float sum = 0.0f;
  float values[4] = {};

  __device__ void rescale(float new_top) {
    const float factor = exp2_fast(top - (new_top == -INFINITY ? 0.0f : new_top));
    top = new_top;
    sum *= factor;
#pragma unroll
    for (float& value : values) value *= factor;
  }
};

constexpr int kMergeLanes = 16;  // of each half of a warp, which takes every second part

// Of the half warp's parts of a head of a sequence, whose first part is `first_part`. `element` is
// negative beyond the head's last.
__device__ inline PartSums sum_parts(const ProgramAttention& attention, int64_t first_part,
                                     int parts, int element) {
  constexpr int kAtOnce = 8;
  PartSums sums;
#pragma unroll 1
  for (int first = static_cast<int>(threadIdx.x) % 32 / kMergeLanes; first < parts;
       first += 2 * kAtOnce) {
    float tops[kAtOnce];
    float sums_of[kAtOnce];
    float values[kAtOnce][4] = {};
    float top = sums.top;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t at = first_part + first + 2 * i;
      const bool is_part = first + 2 * i < parts;
      tops[i] = is_part ? __ldcg(attention.tops + at) : -INFINITY;
      sums_of[i] = is_part ? __ldcg(attention.sums + at) : 0.0f;
      if (is_part && element >= 0) {
        load_fresh(attention.values + at * attention.args.head_size + element, values[i]);
      }
    }
#pragma unroll
    for (float other : tops) top = fmaxf(top, other);
    sums.rescale(top);
    const float base = top == -INFINITY ? 0.0f : top;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const float weight = exp2_fast(tops[i] - base);
      sums.sum += weight * sums_of[i];
#pragma unroll
      for (int j = 0; j < 4; ++j) sums.values[j] += weight * values[i][j];
    }
  }
  return sums;
}

// What both halves of the warp have, in each of them.
__device__ inline void add_halves(PartSums& sums) {
  sums.rescale(fmaxf(sums.top, __shfl_xor_sync(0xffffffffu, sums.top, kMergeLanes)));
  sums.sum += __shfl_xor_sync(0xffffffffu, sums.sum, kMergeLanes);
#pragma unroll
  for (float& value : sums.values) value += __shfl_xor_sync(0xffffffffu, value, kMergeLanes);
}

// The output from the parts: a warp takes 64 elements of a head, neighbours of which are other
// blocks'.
__device__ inline void run_merge(const ProgramAttention& attention, Known& known,
                                 const BlockWait& wait) {
  const AttentionArgs& args = attention.args;
  const int slices = (args.head_size + 63) / 64;
  const int units = args.sequences * args.heads * slices;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int blocks = static_cast<int>(gridDim.x);
  learn(known.sequences, attention);
  const KnownCuts& cuts = learn(known, attention);
  wait();
#pragma unroll 1
  for (int unit = static_cast<int>(threadIdx.x) / 32 * blocks + static_cast<int>(blockIdx.x);
       unit < units; unit += kProgramWarps * blocks) {
    const int element = unit % slices * 64 + lane % kMergeLanes * 4;
    const int head = unit / slices % args.heads;
    const int sequence = unit / (slices * args.heads);
    const int64_t token = known.sequences.tokens[sequence];
    if (token < 0) continue;
    const int parts =
        keys_of(attention, known.sequences.lengths[sequence], cuts.spans[sequence]).parts;
    const bool is_inside = element < args.head_size;
    const int64_t first_part = (int64_t{sequence} * args.heads + head) * attention.splits;
    PartSums sums = sum_parts(attention, first_part, parts, is_inside ? element : -1);
    __syncwarp();
    add_halves(sums);
    if (!is_inside || lane >= kMergeLanes) continue;
    const float sum = parts == 0 ? 1.0f : sums.sum;
    const int64_t to = (token * args.heads + head) * args.head_size + element;
    float out[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) out[j] = sums.values[j] / sum;
    store(out, static_cast<bfloat16*>(args.out) + to);
  }
}

}  // namespace lorax::cuda
