// Attention of a program: sequences of one query row each. A block takes two query heads of one
// key/value head. Each warp goes through keys of its own, four at a time, and keeps a softmax of
// its own, of which a lane has 8 elements of both heads; warps meet at the end of a part only.
#pragma once

#include "device/cuda/attention/attention_tile.cuh"
#include "device/cuda/megakernel/program_blocks.cuh"
#include "device/cuda/megakernel/program_sequences.cuh"
#include "device/cuda/ptx/vector.cuh"
#include "device/cuda/tile/rotate.cuh"

namespace lorax::cuda {

constexpr int kPairHeads = 2;
constexpr int kKeysAtOnce = 4;  // of a warp
constexpr int kStages = 2;      // of keys that a warp has under way
constexpr int kMaxHeadSize = 256;
static_assert(kProgramKeys == kProgramWarps * kKeysAtOnce);
static_assert(kPairHeads * kMaxHeadSize == 2 * kProgramThreads);

// What the warps have of a part, in shared memory.
struct AttentionRoom {
  alignas(16) float values[kProgramWarps][kPairHeads][kMaxHeadSize];
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

__device__ inline Keys keys_of(const ProgramAttention& attention, int length, int span) {
  const int seen = seen_keys(attention.args, length);
  return {length - seen, length, span, (seen + span - 1) / span};
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

// Where the lane's one of keys [first, min(first + 4, end)) lies; -1: beyond the end.
__device__ inline int slot_of_four(const PageRow& pages, int first, int end) {
  const int position = first + static_cast<int>(threadIdx.x) % kKeysAtOnce;
  return position < end ? pages.slot_of(position) : -1;
}

// Of the keys in the lanes' slots; zeros for those beyond the end, whatever their pages hold.
// Called by all lanes.
__device__ inline void load_four(FourKeys& four, const AttentionArgs& args, int slot, int kv_head,
                                 int element) {
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

// A warp's running softmax of both heads. Lanes [16 h, 16 h + 16) hold the top of head h, and lanes
// 4 i to 4 i + 3 the weights' sum of every key that is number i % 4 of its four; each lane has 8
// elements of both heads.
struct WarpSoftmax {
  float top = -INFINITY;
  float sum = 0.0f;
  float values[kPairHeads][8] = {};

  // Takes keys [first, min(first + 4, end)).
  __device__ void take(const float (&q)[kPairHeads][8], const FourKeys& four, int first, int end,
                       const ScoreTransform& transform) {
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
    }
    const float product = sum_of_eight(products);
    const int of_lane = static_cast<int>(threadIdx.x) % 32 / 4 % kKeysAtOnce;
    const float score = first + of_lane < end ? transform(product) : -INFINITY;
    float new_top = fmaxf(top, score);
    new_top = fmaxf(new_top, __shfl_xor_sync(0xffffffffu, new_top, 4));
    new_top = fmaxf(new_top, __shfl_xor_sync(0xffffffffu, new_top, 8));
    const float base = new_top == -INFINITY ? 0.0f : new_top;
    const float rescale = exp2_fast(top - base);
    const float weight = exp2_fast(score - base);
    top = new_top;
    sum = sum * rescale + weight;
#pragma unroll
    for (int h = 0; h < kPairHeads; ++h) {
      const float of_head = __shfl_sync(0xffffffffu, rescale, h * 16);
#pragma unroll
      for (float& value : values[h]) value *= of_head;
    }
#pragma unroll
    for (int j = 0; j < kKeysAtOnce; ++j) {
      float value[8];
      unpack_eight(four.values[j], value);
#pragma unroll
      for (int h = 0; h < kPairHeads; ++h) {
        const float of_key = __shfl_sync(0xffffffffu, weight, h * 16 + j * 4);
#pragma unroll
        for (int i = 0; i < 8; ++i) values[h][i] += of_key * value[i];
      }
    }
  }

  // Into the room, where element < kMaxHeadSize is the lane's first.
  __device__ void leave(AttentionRoom& room, int element) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    sum += __shfl_xor_sync(0xffffffffu, sum, 4);
    sum += __shfl_xor_sync(0xffffffffu, sum, 8);
#pragma unroll
    for (int h = 0; h < kPairHeads; ++h) {
      float4* to = reinterpret_cast<float4*>(&room.values[warp][h][element]);
      to[0] = make_float4(values[h][0], values[h][1], values[h][2], values[h][3]);
      to[1] = make_float4(values[h][4], values[h][5], values[h][6], values[h][7]);
    }
    if (lane % 16 == 0) {
      room.tops[warp][lane / 16] = top;
      room.sums[warp][lane / 16] = sum;
    }
  }
};

// Adds up what the warps have of a part and writes it, two elements of a head a thread.
__device__ inline void leave_part(const ProgramAttention& attention, const AttentionRoom& room,
                                  int64_t first_part, int split, int heads) {
  const int h = static_cast<int>(threadIdx.x) / (kProgramThreads / kPairHeads);
  const int element = static_cast<int>(threadIdx.x) % (kProgramThreads / kPairHeads) * 2;
  if (h >= heads || element >= attention.args.head_size) return;
  float top = -INFINITY;
#pragma unroll
  for (int warp = 0; warp < kProgramWarps; ++warp) top = fmaxf(top, room.tops[warp][h]);
  const float base = top == -INFINITY ? 0.0f : top;
  float sum = 0.0f;
  float2 values = make_float2(0.0f, 0.0f);
#pragma unroll
  for (int warp = 0; warp < kProgramWarps; ++warp) {
    const float weight = exp2_fast(room.tops[warp][h] - base);
    const float2 more = *reinterpret_cast<const float2*>(&room.values[warp][h][element]);
    sum += weight * room.sums[warp][h];
    values.x += weight * more.x;
    values.y += weight * more.y;
  }
  const int64_t part = first_part + h * attention.splits + split;
  __stcg(reinterpret_cast<float2*>(attention.values + part * attention.args.head_size + element),
         values);
  if (element == 0) {
    __stcg(attention.tops + part, top);
    __stcg(attention.sums + part, sum);
  }
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
  const int of_part = units_of_part(args);
  const int warp = threadIdx.x / 32;
  const int element = static_cast<int>(threadIdx.x % 32) * 8;
  const bool is_inside = element < args.head_size;
  const ScoreTransform transform(args.scale, args.softcap);
  learn(known.sequences, attention);
  const KnownCuts& cuts = learn(known, attention);
  const int units = of_part * cuts.turns;
  bool has_waited = !rotates;
  if (has_waited) wait();
#pragma unroll 1
  for (int unit = static_cast<int>(blockIdx.x); unit < units; unit += static_cast<int>(gridDim.x)) {
    const int split = unit / of_part;
    int rest = unit % of_part;
    const int pair = rest % pairs;
    rest /= pairs;
    const int kv_head = rest % args.kv_heads;
    const int sequence = rest / args.kv_heads;
    const int token = known.sequences.tokens[sequence];
    const Keys keys = keys_of(attention, known.sequences.lengths[sequence], cuts.spans[sequence]);
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
    FourKeys stages[kStages];
#pragma unroll
    for (int s = 0; s < kStages; ++s) {
      load_four(stages[s], args, slot_of_four(pages, key + s * kProgramKeys, stored), kv_head,
                element);
    }
    int slot = slot_of_four(pages, key + kStages * kProgramKeys, stored);
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
    WarpSoftmax softmax;
#pragma unroll 1
    while (key < end) {
      // A stage is loaded anew where it lies: to move it would wait for what is under way.
#pragma unroll
      for (FourKeys& four : stages) {
        if (key >= end) break;
        if (rotates) {
#pragma unroll
          for (int j = 0; j < kKeysAtOnce; ++j) {
            if (key + j != newest) continue;
            four.keys[j] = made.key;
            four.values[j] = made.value;
          }
        }
        softmax.take(q, four, key, end, transform);
        load_four(four, args, slot, kv_head, element);
        slot = slot_of_four(pages, key + (kStages + 1) * kProgramKeys, stored);
        key += kProgramKeys;
      }
    }
    softmax.leave(room, element);
    sync_block();
    leave_part(attention, room, (int64_t{sequence} * args.heads + head) * attention.splits, split,
               heads);
    sync_block();  // `room` is free
  }
  if (!has_waited) wait();
}

}  // namespace lorax::cuda
