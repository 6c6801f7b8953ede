// Attention of a program: sequences of one query row each. A block takes two query heads of one
// key/value head and 32 keys at a time: each warp makes the scores of four of them, a lane having 8
// elements of each; then each thread adds up two elements of one head's output over all of them.
#pragma once

#include "device/cuda/attention_tile.cuh"
#include "device/cuda/program_blocks.cuh"
#include "device/cuda/program_sequences.cuh"
#include "device/cuda/rotate.cuh"
#include "device/cuda/vector.cuh"

namespace lorax::cuda {

constexpr int kPairHeads = 2;
constexpr int kKeysAtOnce = 4;
constexpr int kMinSpan = kProgramWarps * kKeysAtOnce;  // keys of a part

constexpr int kHeadThreads = kProgramThreads / kPairHeads;  // of the output of a head
constexpr int kMaxHeadSize = 256;
static_assert(kMinSpan == 32 && kHeadThreads * 2 == kMaxHeadSize);

// Room in shared memory, for the keys at hand.
struct AttentionRoom {
  alignas(16) bfloat16 values[kMinSpan][kMaxHeadSize];
  float scores[kPairHeads][kMinSpan];
  alignas(16) float weights[kProgramWarps][kMinSpan];  // a warp's own
};

static_assert(sizeof(AttentionRoom) <= kProgramStageBytes);

// The keys that a sequence's row sees, and how they are cut.
struct Keys {
  int first;
  int end;
  int span;  // of a part
  int parts;
};

__device__ inline Keys keys_of(const ProgramAttention& attention, int length) {
  const int window = attention.args.window;
  const int first = window > 0 ? max(0, length - window) : 0;
  const int seen = length - first;
  const int span = max(kMinSpan, (seen + attention.splits - 1) / attention.splits);
  return {first, length, span, (seen + span - 1) / span};
}

// The angles of the lane's eight elements of heads at a position; lanes `half` / 8 apart are
// partners.
struct Angles {
  float c[8];
  float s[8];
};

__device__ inline Angles load_angles(const RotaryStoreArgs& args, int position, int element) {
  Angles angles = {};
  const int half = static_cast<int>(args.head_size) / 2;
  if (element >= 2 * half) return angles;
  const int64_t at = int64_t{position} * half + (element < half ? element : element - half);
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

// The lane's elements of four keys and their values.
struct FourKeys {
  uint4 keys[kKeysAtOnce];
  uint4 values[kKeysAtOnce];
};

// Of keys [first, min(first + 4, end)); zeros for those beyond, whatever their pages hold. Called
// by all lanes.
__device__ inline void load_four(FourKeys& four, const AttentionArgs& args, const PageRow& pages,
                                 int kv_head, int first, int end, int element) {
  const int position = first + static_cast<int>(threadIdx.x) % kKeysAtOnce;
  const int slot = position < end ? pages.slot_of(position) : -1;
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
                                     int64_t slot, int kv_head, int element) {
  if (slot < 0 || element >= rotary.head_size) return;
  const int64_t to = (slot * rotary.kv_heads + kv_head) * rotary.head_size + element;
  *reinterpret_cast<uint4*>(static_cast<bfloat16*>(rotary.key) + to) = made.key;
  *reinterpret_cast<uint4*>(static_cast<bfloat16*>(rotary.value) + to) = made.value;
}

// Leaves the scores of the warp's keys [first, min(first + 4, end)), and their values.
__device__ inline void score_four(AttentionRoom& room, const float (&q)[kPairHeads][8],
                                  const FourKeys& four, int first, int end,
                                  const ScoreTransform& transform, int element) {
  const int row = threadIdx.x / 32 * kKeysAtOnce;
  float products[kPairHeads * kKeysAtOnce];
#pragma unroll
  for (int j = 0; j < kKeysAtOnce; ++j) {
    float key[8];
    unpack_eight(four.keys[j], key);
#pragma unroll
    for (int h = 0; h < kPairHeads; ++h) {
      float product = 0.0f;
#pragma unroll
      for (int i = 0; i < 8; ++i) product += q[h][i] * key[i];
      products[h * kKeysAtOnce + j] = product;
    }
    *reinterpret_cast<uint4*>(&room.values[row + j][element]) = four.values[j];
  }
  const float product = sum_of_eight(products);
  const int lane = threadIdx.x % 32;
  const int j = lane / 4 % kKeysAtOnce;
  if (lane % 4 == 0) {
    room.scores[lane / 16][row + j] = first + j < end ? transform(product) : -INFINITY;
  }
}

// A thread's running softmax of one head, of which it has two elements; top and sum are the same in
// all threads of the head.
struct HeadSums {
  float top = -INFINITY;
  float sum = 0.0f;
  float2 values = make_float2(0.0f, 0.0f);
};

// Takes the keys in the room into the sums.
__device__ inline void attend(HeadSums& sums, AttentionRoom& room, int head, int element) {
  const int lane = threadIdx.x % 32;
  float(&weights)[kMinSpan] = room.weights[threadIdx.x / 32];
  const float score = room.scores[head][lane];
  float top = fmaxf(sums.top, score);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
  }
  const float base = top == -INFINITY ? 0.0f : top;
  const float rescale = exp2_fast(sums.top - base);
  weights[lane] = exp2_fast(score - base);
  __syncwarp();
  float sum = 0.0f;
  float2 values = make_float2(0.0f, 0.0f);
#pragma unroll
  for (int key = 0; key < kMinSpan; key += 4) {
    const float4 four = *reinterpret_cast<const float4*>(&weights[key]);
    const float of_key[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 value =
          unpack<bfloat16>(*reinterpret_cast<const uint32_t*>(&room.values[key + j][element]));
      sum += of_key[j];
      values.x += of_key[j] * value.x;
      values.y += of_key[j] * value.y;
    }
  }
  sums.top = top;
  sums.sum = sums.sum * rescale + sum;
  sums.values.x = sums.values.x * rescale + values.x;
  sums.values.y = sums.values.y * rescale + values.y;
}

// The parts of all sequences, spread over the blocks. With rotary_store: of raw queries, keys and
// values, which it rotates and stores on the way. What the pages held before this step is on its
// way before `wait` is called.
__device__ inline void run_attention(const ProgramAttention& attention, AttentionRoom& room,
                                     Known& known, const BlockWait& wait) {
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
  learn(known.sequences, attention);
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
    const int token = known.sequences.tokens[sequence];
    const Keys keys = keys_of(attention, known.sequences.lengths[sequence]);
    if (token < 0 || split >= keys.parts) continue;
    const int begin = keys.first + split * keys.span;
    const int end = min(begin + keys.span, keys.end);
    int key = begin + warp * kKeysAtOnce;
    const int newest = keys.end - 1;
    const int stored = rotates ? min(end, newest) : end;  // behind the keys that are in the pages
    PageRow pages{args.block_tables + int64_t{sequence} * args.max_blocks, attention.log_block_size,
                  nullptr};
    if (unit == static_cast<int>(blockIdx.x)) {
      KnownPages& known_pages = known.pages[args.window > 0 ? 1 : 0];
      learn(known_pages, pages.row, begin >> attention.log_block_size, args.max_blocks);
      pages.known = &known_pages;
    }
    FourKeys four;
    FourKeys next;
    load_four(four, args, pages, kv_head, key, stored, element);
    load_four(next, args, pages, kv_head, key + kMinSpan, stored, element);
    Angles angles = {};
    if (rotates) angles = load_angles(rotary, known.sequences.positions[sequence], element);
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
    NewKey made;
    if (rotates && newest < end && (newest - begin) / kKeysAtOnce % kProgramWarps == warp) {
      made = load_new_key(rotary, angles, token, kv_head, element);
      if (pair == 0) {
        store_new_key(made, rotary, known.sequences.slots[sequence], kv_head, element);
      }
    }
    HeadSums sums;
    const int h = static_cast<int>(threadIdx.x) / kHeadThreads;
    const int of_output = static_cast<int>(threadIdx.x) % kHeadThreads * 2;
#pragma unroll 1
    for (int first = begin; first < end; first += kMinSpan) {
      if (rotates) {
#pragma unroll
        for (int j = 0; j < kKeysAtOnce; ++j) {
          if (key + j != newest) continue;
          four.keys[j] = made.key;
          four.values[j] = made.value;
        }
      }
      score_four(room, q, four, key, end, transform, element);
      key += kMinSpan;
      four = next;
      if (first + 2 * kMinSpan < end) {
        load_four(next, args, pages, kv_head, key + kMinSpan, stored, element);
      }
      sync_block();
      attend(sums, room, h, of_output);
      sync_block();  // `room` is free
    }
    if (h >= heads || of_output >= args.head_size) continue;
    const int64_t part = (int64_t{sequence} * args.heads + head + h) * attention.splits + split;
    __stcg(reinterpret_cast<float2*>(attention.values + part * args.head_size + of_output),
           sums.values);
    if (of_output == 0) {
      __stcg(attention.tops + part, sums.top);
      __stcg(attention.sums + part, sums.sum);
    }
  }
  if (!has_waited) wait();
}

}  // namespace lorax::cuda
