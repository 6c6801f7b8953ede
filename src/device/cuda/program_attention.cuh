// Attention of a program: sequences of one query row each. Two query heads of one key/value head at
// a time; a warp takes four keys at a time, 8 elements of each a lane.
#pragma once

#include "device/cuda/attention_tile.cuh"
#include "device/cuda/program_blocks.cuh"
#include "device/cuda/program_norm.cuh"
#include "device/cuda/rotate.cuh"
#include "device/cuda/vector.cuh"

namespace lorax::cuda {

constexpr int kPairHeads = 2;
constexpr int kKeysAtOnce = 4;
constexpr int kMinSpan = kProgramWarps * kKeysAtOnce;  // keys of a part

// Room in shared memory.
struct AttentionRoom {
  float values[kProgramWarps][kPairHeads][256];
  float tops[kProgramWarps][kPairHeads];
  float sums[kProgramWarps][kPairHeads];
};

static_assert(sizeof(AttentionRoom) <= kProgramStageBytes);

// The keys that a sequence's row sees, and how they are cut.
struct Keys {
  int first;
  int end;
  int span;  // of a part
  int parts;
};

__device__ inline Keys keys_of(const ProgramAttention& attention, int sequence) {
  const AttentionArgs& args = attention.args;
  const int length = args.kv_lengths[sequence];
  const int first = args.window > 0 ? max(0, length - args.window) : 0;
  const int seen = length - first;
  const int span = max(kMinSpan, (seen + attention.splits - 1) / attention.splits);
  return {first, length, span, (seen + span - 1) / span};
}

// Eight neighbouring elements.
__device__ inline void unpack(const uint4& packed, float (&to)[8]) {
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = __uint_as_float(words[i] << 16);
    to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

// A warp's running softmax of two heads; sums are the same in every lane.
struct PairSums {
  float tops[kPairHeads] = {-INFINITY, -INFINITY};
  float sums[kPairHeads] = {};
  float values[kPairHeads][8] = {};
};

// Takes keys [first, min(first + 4, end)) into the sums.
__device__ inline void attend_four(PairSums& sums, const float (&q)[kPairHeads][8],
                                   const AttentionArgs& args, const int32_t* block_table,
                                   int kv_head, int first, int end,
                                   const ScoreTransform& transform) {
  const int element = static_cast<int>(threadIdx.x % 32) * 8;
  const bool is_inside = element < args.head_size;
  uint4 keys[kKeysAtOnce], values[kKeysAtOnce];
#pragma unroll
  for (int j = 0; j < kKeysAtOnce; ++j) {
    const int slot = slot_of(block_table, args.block_size, min(first + j, end - 1));
    const int64_t at =
        (static_cast<int64_t>(slot) * args.kv_heads + kv_head) * args.head_size + element;
    keys[j] = values[j] = make_uint4(0, 0, 0, 0);
    if (is_inside) {
      keys[j] = __ldcg(reinterpret_cast<const uint4*>(static_cast<const bfloat16*>(args.key) + at));
      values[j] =
          __ldcg(reinterpret_cast<const uint4*>(static_cast<const bfloat16*>(args.value) + at));
    }
  }
  float scores[kPairHeads][kKeysAtOnce];
#pragma unroll
  for (int j = 0; j < kKeysAtOnce; ++j) {
    float key[8];
    unpack(keys[j], key);
#pragma unroll
    for (int h = 0; h < kPairHeads; ++h) {
      float product = 0.0f;
#pragma unroll
      for (int i = 0; i < 8; ++i) product += q[h][i] * key[i];
      scores[h][j] = product;
    }
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
#pragma unroll
    for (int h = 0; h < kPairHeads; ++h) {
#pragma unroll
      for (int j = 0; j < kKeysAtOnce; ++j) {
        scores[h][j] += __shfl_xor_sync(0xffffffffu, scores[h][j], offset);
      }
    }
  }
#pragma unroll
  for (int h = 0; h < kPairHeads; ++h) {
    float top = sums.tops[h];
#pragma unroll
    for (int j = 0; j < kKeysAtOnce; ++j) {
      scores[h][j] = first + j < end ? transform(scores[h][j]) : -INFINITY;
      top = fmaxf(top, scores[h][j]);
    }
    const float base = top == -INFINITY ? 0.0f : top;
    const float rescale = exp2_fast(sums.tops[h] - base);
    sums.tops[h] = top;
    sums.sums[h] *= rescale;
#pragma unroll
    for (int i = 0; i < 8; ++i) sums.values[h][i] *= rescale;
#pragma unroll
    for (int j = 0; j < kKeysAtOnce; ++j) {
      scores[h][j] = exp2_fast(scores[h][j] - base);
      sums.sums[h] += scores[h][j];
    }
  }
#pragma unroll
  for (int j = 0; j < kKeysAtOnce; ++j) {
    float value[8];
    unpack(values[j], value);
#pragma unroll
    for (int h = 0; h < kPairHeads; ++h) {
#pragma unroll
      for (int i = 0; i < 8; ++i) sums.values[h][i] += scores[h][j] * value[i];
    }
  }
}

// The sums of all warps into scratch; `part` of the first head, the second is `splits` further on.
__device__ inline void leave_part(const ProgramAttention& attention, const PairSums& sums,
                                  int64_t part, int heads, AttentionRoom& room) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int h = 0; h < kPairHeads; ++h) {
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
      *reinterpret_cast<float4*>(&room.values[warp][h][lane * 8 + i]) = make_float4(
          sums.values[h][i], sums.values[h][i + 1], sums.values[h][i + 2], sums.values[h][i + 3]);
    }
    if (lane == 0) {
      room.tops[warp][h] = sums.tops[h];
      room.sums[warp][h] = sums.sums[h];
    }
  }
  __syncthreads();
  const int head_size = attention.args.head_size;
  const int h = warp / (kProgramWarps / kPairHeads);
  float top = -INFINITY;
#pragma unroll
  for (int w = 0; w < kProgramWarps; ++w) top = fmaxf(top, room.tops[w][h]);
  float factors[kProgramWarps];
  float sum = 0.0f;
#pragma unroll
  for (int w = 0; w < kProgramWarps; ++w) {
    factors[w] = exp2_fast(room.tops[w][h] - top);
    sum += factors[w] * room.sums[w][h];
  }
  const int64_t to = part + h * attention.splits;
  const int element = static_cast<int>(threadIdx.x) % (kProgramThreads / kPairHeads) * 2;
  if (h < heads && element < head_size) {
    float2 value = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int w = 0; w < kProgramWarps; ++w) {
      value.x += factors[w] * room.values[w][h][element];
      value.y += factors[w] * room.values[w][h][element + 1];
    }
    __stcg(reinterpret_cast<float2*>(attention.values + to * head_size + element), value);
    if (element == 0) {
      __stcg(attention.tops + to, top);
      __stcg(attention.sums + to, sum);
    }
  }
  __syncthreads();  // `room` is free
}

// The parts of all sequences, spread over the blocks.
__device__ inline void run_attention(const ProgramAttention& attention, AttentionRoom& room) {
  const AttentionArgs& args = attention.args;
  const int group = args.heads / args.kv_heads;
  const int pairs = (group + 1) / 2;
  const int units = args.sequences * args.kv_heads * pairs * attention.splits;
  const int warp = threadIdx.x / 32;
  const int element = static_cast<int>(threadIdx.x % 32) * 8;
  const ScoreTransform transform(args.scale, args.softcap);
  for (int unit = static_cast<int>(blockIdx.x); unit < units; unit += static_cast<int>(gridDim.x)) {
    const int split = unit % attention.splits;
    const int pair = unit / attention.splits % pairs;
    const int kv_head = unit / (attention.splits * pairs) % args.kv_heads;
    const int sequence = unit / (attention.splits * pairs * args.kv_heads);
    const int64_t token = args.cu_seqlens_q[sequence];
    const Keys keys = keys_of(attention, sequence);
    if (args.cu_seqlens_q[sequence + 1] - token != 1 || split >= keys.parts) continue;
    const int head = kv_head * group + pair * kPairHeads;
    const int heads = min(kPairHeads, group - pair * kPairHeads);
    float q[kPairHeads][8] = {};
#pragma unroll
    for (int h = 0; h < kPairHeads; ++h) {
      if (h < heads && element < args.head_size) {
        unpack(__ldcg(reinterpret_cast<const uint4*>(static_cast<const bfloat16*>(args.q) +
                                                     token * args.q_stride +
                                                     (head + h) * args.head_size + element)),
               q[h]);
      }
    }
    const int begin = keys.first + split * keys.span;
    const int end = min(begin + keys.span, keys.end);
    PairSums sums;
    for (int key = begin + warp * kKeysAtOnce; key < end; key += kMinSpan) {
      attend_four(sums, q, args, args.block_tables + int64_t{sequence} * args.max_blocks, kv_head,
                  key, end, transform);
    }
    leave_part(attention, sums, (int64_t{sequence} * args.heads + head) * attention.splits + split,
               heads, room);
  }
}

// The output from the parts: 64 elements of a head at a time, by 16 threads for each of 16 groups
// of parts.
__device__ inline void run_merge(const ProgramAttention& attention, AttentionRoom& room) {
  constexpr int kGroups = 16;
  constexpr int kSlice = kProgramThreads / kGroups * 4;
  const AttentionArgs& args = attention.args;
  const int slices = (args.head_size + kSlice - 1) / kSlice;
  const int units = args.sequences * args.heads * slices;
  const int lane = threadIdx.x % 32;
  float4* partial = reinterpret_cast<float4*>(&room);  // [kGroups][16]
  for (int unit = static_cast<int>(blockIdx.x); unit < units; unit += static_cast<int>(gridDim.x)) {
    const int slice = unit % slices;
    const int head = unit / slices % args.heads;
    const int sequence = unit / (slices * args.heads);
    const int64_t token = args.cu_seqlens_q[sequence];
    if (args.cu_seqlens_q[sequence + 1] - token != 1) continue;
    const int parts = keys_of(attention, sequence).parts;
    const int64_t first = (int64_t{sequence} * args.heads + head) * attention.splits;
    const int element = slice * kSlice + static_cast<int>(threadIdx.x) % 16 * 4;
    const int group = static_cast<int>(threadIdx.x) / 16;
    float top = -INFINITY;
    for (int part = lane; part < parts; part += 32)
      top = fmaxf(top, __ldcg(attention.tops + first + part));
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
    }
    float total = 0.0f;
    for (int part = lane; part < parts; part += 32) {
      total += exp2_fast(__ldcg(attention.tops + first + part) - top) *
               __ldcg(attention.sums + first + part);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      total += __shfl_xor_sync(0xffffffffu, total, offset);
    }
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (element < args.head_size) {
#pragma unroll 4
      for (int part = group; part < parts; part += kGroups) {
        const float weight = exp2_fast(__ldcg(attention.tops + first + part) - top);
        const float4 value = __ldcg(reinterpret_cast<const float4*>(
            attention.values + (first + part) * args.head_size + element));
        sum.x += weight * value.x;
        sum.y += weight * value.y;
        sum.z += weight * value.z;
        sum.w += weight * value.w;
      }
    }
    partial[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < 16 && element < args.head_size) {
      for (int other = 1; other < kGroups; ++other) {
        const float4 more = partial[other * 16 + threadIdx.x];
        sum.x += more.x;
        sum.y += more.y;
        sum.z += more.z;
        sum.w += more.w;
      }
      const float inverse = parts == 0 ? 0.0f : 1.0f / total;
      const float result[4] = {sum.x * inverse, sum.y * inverse, sum.z * inverse, sum.w * inverse};
      store(result, static_cast<bfloat16*>(args.out) +
                        (token * args.heads + head) * args.head_size + element);
    }
    __syncthreads();
  }
}

// rotary_store: four elements of each half of a head a lane; heads spread over the blocks.
__device__ inline void run_rotary_store(const RotaryStoreArgs& args) {
  const int half = static_cast<int>(args.head_size) / 2;
  const int row_heads = static_cast<int>(args.heads + 2 * args.kv_heads);
  const int units = static_cast<int>(args.rows) * row_heads;
  const int kv_heads = static_cast<int>(args.kv_heads);
  const int warp = threadIdx.x / 32;
  const int stride = static_cast<int>(gridDim.x) * kProgramWarps;
  for (int unit = warp * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x); unit < units;
       unit += stride) {
    const int row = unit / row_heads;
    const int head = unit % row_heads;
    const int kv_head = head - static_cast<int>(args.heads);  // negative: a query's
    const bool is_value = kv_head >= kv_heads;
    const Rows& rows = kv_head < 0 ? args.q : is_value ? args.v : args.k;
    const int head_of_rows = kv_head < 0 ? head : is_value ? kv_head - kv_heads : kv_head;
    bfloat16* from =
        static_cast<bfloat16*>(rows.data) + row * rows.stride + head_of_rows * 2 * half;
    bfloat16* to = from;
    if (kv_head >= 0) {
      const int64_t slot = args.slots[row];
      if (slot < 0) continue;
      to = static_cast<bfloat16*>(is_value ? args.value : args.key) +
           (slot * kv_heads + head_of_rows) * 2 * half;
    }
    for (int i = static_cast<int>(threadIdx.x) % 32 * 4; i < half; i += 128) {
      float x1[4], x2[4], c[4], s[4], y1[4], y2[4];
      load_fresh(from + i, x1);
      load_fresh(from + half + i, x2);
      if (is_value) {
        store(x1, to + i);
        store(x2, to + half + i);
        continue;
      }
      const int64_t angle = int64_t{args.positions[row]} * half + i;
      load(args.cos + angle, c);
      load(args.sin + angle, s);
      rotate<4>(x1, x2, c, s, y1, y2);
      store(y1, to + i);
      store(y2, to + half + i);
    }
  }
}

}  // namespace lorax::cuda
