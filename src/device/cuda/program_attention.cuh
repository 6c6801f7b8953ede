// Attention of a program: sequences of one query row each. Two query heads of one key/value head at
// a time; a warp takes four keys at a time, 8 elements of each a lane.
#pragma once

#include "device/cuda/attention_tile.cuh"
#include "device/cuda/program_blocks.cuh"
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
__device__ inline void unpack_eight(const uint4& packed, float (&to)[8]) {
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack<bfloat16>(words[i]);
    to[2 * i] = pair.x;
    to[2 * i + 1] = pair.y;
  }
}

// The angles of the lane's eight elements of a token's heads, of which lanes lie `half` / 8 apart
// that are partners.
struct Angles {
  float c[8];
  float s[8];
};

__device__ inline Angles load_angles(const RotaryStoreArgs& args, int64_t token, int element) {
  Angles angles = {};
  const int half = static_cast<int>(args.head_size) / 2;
  if (element >= 2 * half) return angles;
  const int64_t at = int64_t{args.positions[token]} * half + element % half;
#pragma unroll
  for (int i = 0; i < 8; i += 4) {
    load(args.cos + at + i, *reinterpret_cast<float(*)[4]>(angles.c + i));
    load(args.sin + at + i, *reinterpret_cast<float(*)[4]>(angles.s + i));
  }
  return angles;
}

// rotate() of the lane's elements, rounded; called by all lanes.
__device__ inline void rotate_rounded(float (&x)[8], const Angles& angles, int head_size,
                                      int element) {
  const int apart = head_size / 16;
  const int lane = threadIdx.x % 32;
  const bool is_first = element < head_size / 2;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float other =
        __shfl_sync(0xffffffffu, x[i], (is_first ? lane + apart : lane - apart) & 31);
    const float crossed = __fmul_rn(other, angles.s[i]);
    x[i] = __fmaf_rn(x[i], angles.c[i], is_first ? -crossed : crossed);
    x[i] = to_float(from_float<bfloat16>(x[i]));
  }
}

__device__ inline uint4 pack(const float (&x)[8]) {
  return make_uint4(pack<bfloat16>(x[0], x[1]), pack<bfloat16>(x[2], x[3]),
                    pack<bfloat16>(x[4], x[5]), pack<bfloat16>(x[6], x[7]));
}

// Eight elements of a row of heads, past the L1 cache.
__device__ inline uint4 load_eight(const Rows& rows, int64_t row, int at) {
  return __ldcg(reinterpret_cast<const uint4*>(static_cast<const bfloat16*>(rows.data) +
                                               row * rows.stride + at));
}

// A warp's running softmax of two heads; tops and sums are the same in every lane.
struct PairSums {
  float tops[kPairHeads] = {-INFINITY, -INFINITY};
  float sums[kPairHeads] = {};
  float values[kPairHeads][8] = {};
};

// The lane's elements of four keys and their values.
struct FourKeys {
  uint4 keys[kKeysAtOnce];
  uint4 values[kKeysAtOnce];
};

// Of keys [first, min(first + 4, end)); zeros for those beyond, whatever their pages hold. Called
// by all lanes.
__device__ inline void load_four(FourKeys& four, const AttentionArgs& args,
                                 const int32_t* block_table, int kv_head, int first, int end,
                                 int element) {
  const int position = first + static_cast<int>(threadIdx.x) % kKeysAtOnce;
  const int slot = position < end ? slot_of(block_table, args.block_size, position) : -1;
#pragma unroll
  for (int j = 0; j < kKeysAtOnce; ++j) {
    const int of_key = __shfl_sync(0xffffffffu, slot, j);
    four.keys[j] = four.values[j] = make_uint4(0, 0, 0, 0);
    if (of_key < 0 || element >= args.head_size) continue;
    const int64_t at =
        (static_cast<int64_t>(of_key) * args.kv_heads + kv_head) * args.head_size + element;
    four.keys[j] =
        __ldcg(reinterpret_cast<const uint4*>(static_cast<const bfloat16*>(args.key) + at));
    four.values[j] =
        __ldcg(reinterpret_cast<const uint4*>(static_cast<const bfloat16*>(args.value) + at));
  }
}

// The lane's elements of this step's key, rotated, and value.
struct NewKey {
  uint4 key = make_uint4(0, 0, 0, 0);
  uint4 value = make_uint4(0, 0, 0, 0);
};

// Called by all lanes.
__device__ inline NewKey load_new_key(const RotaryStoreArgs& rotary, const Angles& angles,
                                      int64_t token, int kv_head, int element) {
  const int head_size = static_cast<int>(rotary.head_size);
  NewKey made;
  if (element < head_size) {
    made.key = load_eight(rotary.k, token, kv_head * head_size + element);
    made.value = load_eight(rotary.v, token, kv_head * head_size + element);
  }
  float rotated[8];
  unpack_eight(made.key, rotated);
  rotate_rounded(rotated, angles, head_size, element);
  made.key = pack(rotated);
  return made;
}

__device__ inline void store_new_key(const NewKey& made, const RotaryStoreArgs& rotary,
                                     int64_t token, int kv_head, int element) {
  const int64_t slot = rotary.slots[token];
  if (slot < 0 || element >= rotary.head_size) return;
  const int64_t to = (slot * rotary.kv_heads + kv_head) * rotary.head_size + element;
  *reinterpret_cast<uint4*>(static_cast<bfloat16*>(rotary.key) + to) = made.key;
  *reinterpret_cast<uint4*>(static_cast<bfloat16*>(rotary.value) + to) = made.value;
}

// Takes keys [first, min(first + 4, end)) into the sums.
__device__ inline void attend_four(PairSums& sums, const float (&q)[kPairHeads][8],
                                   const FourKeys& four, int first, int end,
                                   const ScoreTransform& transform) {
  float scores[kPairHeads][kKeysAtOnce];
#pragma unroll
  for (int j = 0; j < kKeysAtOnce; ++j) {
    float key[8];
    unpack_eight(four.keys[j], key);
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
    unpack_eight(four.values[j], value);
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
  sync_block();
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
  sync_block();  // `room` is free
}

// The parts of all sequences, spread over the blocks. With rotary_store: of raw queries, keys and
// values, which it rotates and stores on the way. What the pages held before this step is on its
// way before `wait` is called.
__device__ inline void run_attention(const ProgramAttention& attention, AttentionRoom& room,
                                     const BlockWait& wait) {
  const AttentionArgs& args = attention.args;
  const RotaryStoreArgs& rotary = attention.rotary_store;
  const bool rotates = attention.rotates != 0;
  const int group = args.heads / args.kv_heads;
  const int pairs = (group + 1) / 2;
  const int units = args.sequences * args.kv_heads * pairs * attention.splits;
  const int warp = threadIdx.x / 32;
  const int element = static_cast<int>(threadIdx.x % 32) * 8;
  const bool is_inside = element < args.head_size;
  const ScoreTransform transform(args.scale, args.softcap);
  bool has_waited = !rotates;
  if (has_waited) wait();
#pragma unroll 1
  for (int unit = static_cast<int>(blockIdx.x); unit < units; unit += static_cast<int>(gridDim.x)) {
    const int split = unit % attention.splits;
    int rest = unit / attention.splits;
    const int pair = rest % pairs;
    rest /= pairs;
    const int kv_head = rest % args.kv_heads;
    const int sequence = rest / args.kv_heads;
    const int64_t token = args.cu_seqlens_q[sequence];
    const Keys keys = keys_of(attention, sequence);
    if (args.cu_seqlens_q[sequence + 1] - token != 1 || split >= keys.parts) continue;
    const int begin = keys.first + split * keys.span;
    const int end = min(begin + keys.span, keys.end);
    int key = begin + warp * kKeysAtOnce;
    const int32_t* block_table = args.block_tables + int64_t{sequence} * args.max_blocks;
    FourKeys four;
    FourKeys next;
    load_four(four, args, block_table, kv_head, key, end, element);
    load_four(next, args, block_table, kv_head, key + kMinSpan, end, element);
    Angles angles = {};
    if (rotates) angles = load_angles(rotary, token, element);
    if (!has_waited) wait();
    has_waited = true;
    const int head = kv_head * group + pair * kPairHeads;
    const int heads = min(kPairHeads, group - pair * kPairHeads);
    float q[kPairHeads][8] = {};
#pragma unroll
    for (int h = 0; h < kPairHeads; ++h) {
      if (h < heads && is_inside) {
        const Rows queries{const_cast<void*>(args.q), args.dtype, args.q_stride};
        unpack_eight(load_eight(queries, token, (head + h) * args.head_size + element), q[h]);
      }
      if (rotates) rotate_rounded(q[h], angles, args.head_size, element);
    }
    const int newest = keys.end - 1;
    NewKey made;
    if (rotates && newest < end && (newest - begin) / kKeysAtOnce % kProgramWarps == warp) {
      made = load_new_key(rotary, angles, token, kv_head, element);
      if (pair == 0) store_new_key(made, rotary, token, kv_head, element);
    }
    PairSums sums;
#pragma unroll 1
    while (key < end) {
      if (rotates) {
#pragma unroll
        for (int j = 0; j < kKeysAtOnce; ++j) {
          if (key + j != newest) continue;
          four.keys[j] = made.key;
          four.values[j] = made.value;
        }
      }
      attend_four(sums, q, four, key, end, transform);
      key += kMinSpan;
      four = next;
      load_four(next, args, block_table, kv_head, key + kMinSpan, end, element);
    }
    leave_part(attention, sums, (int64_t{sequence} * args.heads + head) * attention.splits + split,
               heads, room);
  }
  if (!has_waited) wait();
}

// A running softmax over parts, of four elements.
struct PartSums {
  float top = -INFINITY;
  float sum = 0.0f;
  float4 values = make_float4(0.0f, 0.0f, 0.0f, 0.0f);

  // Those of the lane whose number differs in the bit `mask`.
  __device__ PartSums of_lane_across(int mask) const {
    const auto across = [&](float value) { return __shfl_xor_sync(0xffffffffu, value, mask); };
    PartSums other;
    other.top = across(top);
    other.sum = across(sum);
    other.values =
        make_float4(across(values.x), across(values.y), across(values.z), across(values.w));
    return other;
  }

  __device__ void add(const PartSums& other) {
    if (other.top == -INFINITY) return;
    const float highest = fmaxf(top, other.top);
    const float ours = exp2_fast(top - highest);
    const float theirs = exp2_fast(other.top - highest);
    top = highest;
    sum = sum * ours + other.sum * theirs;
    values.x = values.x * ours + other.values.x * theirs;
    values.y = values.y * ours + other.values.y * theirs;
    values.z = values.z * ours + other.values.z * theirs;
    values.w = values.w * ours + other.values.w * theirs;
  }
};

// The output from the parts: 64 elements of a head at a time, by 16 threads for each of 16 groups
// of parts.
__device__ inline void run_merge(const ProgramAttention& attention, AttentionRoom& room,
                                 const BlockWait& wait) {
  constexpr int kGroups = 16;
  constexpr int kLanes = kProgramThreads / kGroups;
  const AttentionArgs& args = attention.args;
  const int slices = (args.head_size + kLanes * 4 - 1) / (kLanes * 4);
  const int units = args.sequences * args.heads * slices;
  PartSums* partial = reinterpret_cast<PartSums*>(&room);  // [kGroups / 2][kLanes]
  static_assert(sizeof(PartSums) * kProgramThreads <= sizeof(AttentionRoom));
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int group = static_cast<int>(threadIdx.x) / kLanes;
  bool has_waited = false;
#pragma unroll 1
  for (int unit = static_cast<int>(blockIdx.x); unit < units; unit += static_cast<int>(gridDim.x)) {
    const int element = unit % slices * kLanes * 4 + lane * 4;
    const int head = unit / slices % args.heads;
    const int sequence = unit / (slices * args.heads);
    const int64_t token = args.cu_seqlens_q[sequence];
    if (args.cu_seqlens_q[sequence + 1] - token != 1) continue;
    const int parts = keys_of(attention, sequence).parts;
    if (!has_waited) wait();
    has_waited = true;
    const int64_t first = (int64_t{sequence} * args.heads + head) * attention.splits;
    const bool is_inside = element < args.head_size;
    PartSums sums;
#pragma unroll 2
    for (int part = group; part < parts; part += kGroups) {
      PartSums other;
      other.top = __ldcg(attention.tops + first + part);
      other.sum = __ldcg(attention.sums + first + part);
      if (is_inside) {
        other.values = __ldcg(reinterpret_cast<const float4*>(
            attention.values + (first + part) * args.head_size + element));
      }
      sums.add(other);
    }
    sums.add(sums.of_lane_across(kLanes));
    if (group % 2 == 0) partial[group / 2 * kLanes + lane] = sums;
    sync_block();
    if (group == 0) {
#pragma unroll 1
      for (int other = 1; other < kGroups / 2; ++other) sums.add(partial[other * kLanes + lane]);
      const float inverse = parts == 0 ? 0.0f : 1.0f / sums.sum;
      const float result[4] = {sums.values.x * inverse, sums.values.y * inverse,
                               sums.values.z * inverse, sums.values.w * inverse};
      if (is_inside) {
        store(result, static_cast<bfloat16*>(args.out) +
                          (token * args.heads + head) * args.head_size + element);
      }
    }
    sync_block();
  }
  if (!has_waited) wait();
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
