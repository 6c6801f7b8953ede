// The output of a program's attention from its parts.
#pragma once

#include "device/cuda/program_attention.cuh"

namespace lorax::cuda {

// What the warps have of a unit: 32 elements of a head.
struct MergeRoom {
  float values[kProgramWarps][32];
  float tops[kProgramWarps];
  float sums[kProgramWarps];
};
static_assert(sizeof(MergeRoom) <= kProgramStageBytes);

// A running softmax over parts, of one element; sum and top are the same in all lanes.
struct PartSums {
  float top = -INFINITY;
  float sum = 0.0f;
  float value = 0.0f;
};

// Every eighth of the parts from `first` on of a head of a sequence, whose first part is
// `first_part`. `element` is negative beyond the head's last.
__device__ inline PartSums sum_parts(const ProgramAttention& attention, int64_t first_part,
                                     int first, int parts, int element) {
  constexpr int kAtOnce = 4;
  PartSums sums;
#pragma unroll 1
  for (; first < parts; first += kAtOnce * kProgramWarps) {
    float tops[kAtOnce];
    float sums_of[kAtOnce];
    float values[kAtOnce];
    float top = sums.top;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int part = first + i * kProgramWarps;
      const bool is_part = part < parts;
      const int64_t at = first_part + part;
      tops[i] = is_part ? __ldcg(attention.tops + at) : -INFINITY;
      sums_of[i] = is_part ? __ldcg(attention.sums + at) : 0.0f;
      values[i] = is_part && element >= 0
                      ? __ldcg(attention.values + at * attention.args.head_size + element)
                      : 0.0f;
      top = fmaxf(top, tops[i]);
    }
    const float base = top == -INFINITY ? 0.0f : top;
    const float rescale = exp2_fast(sums.top - base);
    sums.top = top;
    sums.sum *= rescale;
    sums.value *= rescale;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const float weight = exp2_fast(tops[i] - base);
      sums.sum += weight * sums_of[i];
      sums.value += weight * values[i];
    }
  }
  return sums;
}

// The output from the parts, which the warps share.
__device__ inline void run_merge(const ProgramAttention& attention, MergeRoom& room, Known& known,
                                 const BlockWait& wait) {
  const AttentionArgs& args = attention.args;
  const int slices = (args.head_size + 31) / 32;
  const int units = args.sequences * args.heads * slices;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  learn(known.sequences, attention);
  bool has_waited = false;
#pragma unroll 1
  for (int unit = static_cast<int>(blockIdx.x); unit < units; unit += static_cast<int>(gridDim.x)) {
    const int element = unit % slices * 32 + lane;
    const int head = unit / slices % args.heads;
    const int sequence = unit / (slices * args.heads);
    const int64_t token = known.sequences.tokens[sequence];
    if (token < 0) continue;
    const int parts = keys_of(attention, known.sequences.lengths[sequence]).parts;
    const bool is_inside = element < args.head_size;
    if (!has_waited) wait();
    has_waited = true;
    const int64_t first_part = (int64_t{sequence} * args.heads + head) * attention.splits;
    const PartSums sums = sum_parts(attention, first_part, warp, parts, is_inside ? element : -1);
    room.values[warp][lane] = sums.value;
    if (lane == 0) {
      room.tops[warp] = sums.top;
      room.sums[warp] = sums.sum;
    }
    sync_block();
    if (warp == 0 && is_inside) {
      float top = -INFINITY;
#pragma unroll
      for (int w = 0; w < kProgramWarps; ++w) top = fmaxf(top, room.tops[w]);
      const float base = top == -INFINITY ? 0.0f : top;
      float sum = 0.0f;
      float value = 0.0f;
#pragma unroll
      for (int w = 0; w < kProgramWarps; ++w) {
        const float weight = exp2_fast(room.tops[w] - base);
        sum += weight * room.sums[w];
        value += weight * room.values[w][lane];
      }
      static_cast<bfloat16*>(args.out)[(token * args.heads + head) * args.head_size + element] =
          from_float<bfloat16>(parts == 0 ? 0.0f : value / sum);
    }
    sync_block();  // `room` is free
  }
  if (!has_waited) wait();
}

}  // namespace lorax::cuda
