// Attention of sequences with one query row: bound by reading their keys and values, each once.
//
// The query heads that share a key/value head (up to 16 per block) form the rows of one tile, so
// that a page is read for all of them. The keys that the row sees are cut into `splits` parts, one
// block each; the two or four warps of a block take turns over tiles of 16 keys, each with buffers
// of its own (one tile in use, the next on its way), and never wait for each other before the end.
// A part leaves its sums in scratch, and the last part of a sequence to end merges them. The grid
// follows from the batch's bounds alone and the parts from each sequence's length, on the device,
// so that a captured graph stays valid while sequences grow below the bounds.
#include <algorithm>

#include "device/cuda/attention/attention_tile.cuh"
#include "device/cuda/ops/kernels.h"
#include "device/cuda/ops/launch.cuh"

namespace lorax::cuda {
namespace {

constexpr int kKeys = 16;   // of a tile
constexpr int kHeads = 16;  // of a block
constexpr int kMaxSplits = 128;
constexpr int kFewestKeys = 64;  // of a part, of few sequences
constexpr int kMostKeys = 512;   // that a part of many may have at least

template <int kD>
constexpr int kTileBytes = 16 * kD * 2;  // of queries, keys or values
template <int kD>
constexpr int kWarpBytes = 4 * kTileBytes<kD>;  // two tiles of keys, two of values
template <int kD, int kWarps>
constexpr int kSharedBytes = kTileBytes<kD> + kWarps* kWarpBytes<kD>;
static_assert(kSharedBytes<64, 2> >= kHeads * kMaxSplits * sizeof(float));

// The sums of all parts: of part s of query head h of sequence b at [(b * heads + h) * splits + s].
struct Scratch {
  float* tops;        // the largest score, in units of log2
  float* sums;        // of the weights relative to it
  float* values;      // [.., d] weighted
  uint32_t* tickets;  // [sequences, blocks of heads]: parts that have ended
  int splits;         // parts at most
  int least_keys;     // that a part has, if its sequence has as many
};

// Sums of 16 rows (heads) as the lanes of a warp hold them.
template <int kD>
struct Sums {
  float values[kD / 8][4] = {};
  RunningRow rows[2];
};

// Takes keys [first_key, min(first_key + 16, end)) into the sums.
template <typename T, int kD>
__device__ void attend(Sums<kD>& sums, uint32_t query_tile, uint32_t key_tile, uint32_t value_tile,
                       int first_key, int end, const ScoreTransform& transform) {
  // Even and odd steps apart: two shorter chains of dependent products.
  float products[2][2][4] = {};
#pragma unroll
  for (int step = 0; step < kD / 16; ++step) {
    uint32_t a[4], b[4];
    load_a<kD>(a, query_tile, step);
    load_keys<kD>(b, key_tile, step);
    mma<T>(products[step % 2][0], a, b[0], b[1]);
    mma<T>(products[step % 2][1], a, b[2], b[3]);
  }
  const int t = threadIdx.x % 4;
  float scores[2][4];
  float tops[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int j = 0; j < 2; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool seen = first_key + j * 8 + t * 2 + i % 2 < end;
      scores[j][i] = seen ? transform(products[0][j][i] + products[1][j][i]) : -INFINITY;
      tops[i / 2] = fmaxf(tops[i / 2], scores[j][i]);
    }
  }
  float bases[2], rescales[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) rescales[i] = raise(sums.rows[i], row_max(tops[i]), bases[i]);
  if (__any_sync(0xffffffffu, rescales[0] != 1.0f || rescales[1] != 1.0f)) {
#pragma unroll
    for (int chunk = 0; chunk < kD / 8; ++chunk) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums.values[chunk][i] *= rescales[i / 2];
    }
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[j][i] = exp2_fast(scores[j][i] - bases[i / 2]);
      sums.rows[i / 2].sum += scores[j][i];
    }
  }
  const uint32_t a[4] = {pack<T>(scores[0][0], scores[0][1]), pack<T>(scores[0][2], scores[0][3]),
                         pack<T>(scores[1][0], scores[1][1]), pack<T>(scores[1][2], scores[1][3])};
#pragma unroll
  for (int chunk = 0; chunk < kD / 8; chunk += 2) {
    uint32_t b[4];
    load_values<kD>(b, value_tile, chunk);
    mma<T>(sums.values[chunk], a, b[0], b[1]);
    mma<T>(sums.values[chunk + 1], a, b[2], b[3]);
  }
}

// Adds the sums of the other warps to those of warp 0 through shared memory; called by all warps.
template <int kD, int kWarps>
__device__ void merge_warps(Sums<kD>& sums, float* buffer) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  constexpr int kValues = kD / 2;  // of a lane
  constexpr int kWarpFloats = (kValues + 4) * 32;
  static_assert((kWarps - 1) * kWarpFloats * sizeof(float) <= kWarps * kWarpBytes<kD>);
#pragma unroll
  for (RunningRow& row : sums.rows) row.sum = row_sum(row.sum);
  __syncthreads();  // nobody reads tiles any more
  if (warp > 0) {
    float* own = buffer + (warp - 1) * kWarpFloats;
#pragma unroll
    for (int i = 0; i < kValues; ++i) own[i * 32 + lane] = sums.values[i / 4][i % 4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      own[(kValues + 2 * i) * 32 + lane] = sums.rows[i].top;
      own[(kValues + 2 * i + 1) * 32 + lane] = sums.rows[i].sum;
    }
  }
  __syncthreads();
  if (warp > 0) return;
#pragma unroll 1
  for (int other = 1; other < kWarps; ++other, buffer += kWarpFloats) {
    float ours[2], theirs[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      RunningRow& row = sums.rows[i];
      const float other_top = buffer[(kValues + 2 * i) * 32 + lane];
      if (other_top == -INFINITY) {  // no keys; the first warp has some
        ours[i] = 1.0f;
        theirs[i] = 0.0f;
        continue;
      }
      const float top = fmaxf(row.top, other_top);
      ours[i] = exp2_fast(row.top - top);
      theirs[i] = exp2_fast(other_top - top);
      row.top = top;
      row.sum = row.sum * ours[i] + buffer[(kValues + 2 * i + 1) * 32 + lane] * theirs[i];
    }
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const int half = i % 4 / 2;
      sums.values[i / 4][i % 4] =
          sums.values[i / 4][i % 4] * ours[half] + buffer[i * 32 + lane] * theirs[half];
    }
  }
}

// Writes the rows that are heads [first_head, first_head + heads) of the sequence: as the output if
// there is one part only, else to scratch.
template <typename T, int kD>
__device__ void write_sums(const Sums<kD>& sums, const AttentionArgs& args, const Scratch& scratch,
                           int sequence, int split, int parts, int64_t token, int first_head,
                           int heads) {
  const int lane = threadIdx.x % 32;
  const int t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    if (row >= heads) continue;
    const int head = first_head + row;
    if (parts == 1) {
      const float inverse = 1.0f / sums.rows[half].sum;
      T* to = static_cast<T*>(args.out) + (token * args.heads + head) * args.head_size + t * 2;
#pragma unroll
      for (int chunk = 0; chunk < kD / 8; ++chunk) {
        if (chunk * 8 >= args.head_size) break;
        *reinterpret_cast<uint32_t*>(to + chunk * 8) = pack<T>(
            sums.values[chunk][2 * half] * inverse, sums.values[chunk][2 * half + 1] * inverse);
      }
    } else {
      const int64_t part = (int64_t{sequence} * args.heads + head) * scratch.splits + split;
      if (t == 0) {
        scratch.tops[part] = sums.rows[half].top;
        scratch.sums[part] = sums.rows[half].sum;
      }
      float* to = scratch.values + part * args.head_size + t * 2;
#pragma unroll
      for (int chunk = 0; chunk < kD / 8; ++chunk) {
        if (chunk * 8 >= args.head_size) break;
        *reinterpret_cast<float2*>(to + chunk * 8) =
            make_float2(sums.values[chunk][2 * half], sums.values[chunk][2 * half + 1]);
      }
    }
  }
}

// Whether this block is the last of `parts` to come here; then it sees what the others wrote.
__device__ bool is_last(uint32_t* ticket, int parts) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(ticket, 1u) == static_cast<uint32_t>(parts) - 1;
    if (last) *ticket = 0;
  }
  __syncthreads();
  __threadfence();
  return last;
}

// The output of some heads from all parts, by one block. `weights` is room in shared memory for the
// weight of each head's parts, [kHeads].
template <typename T, int kWarps>
__device__ void merge_parts(const AttentionArgs& args, const Scratch& scratch,
                            float (*weights)[kMaxSplits], int sequence, int parts, int64_t token,
                            int first_head, int heads) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int64_t first_row = int64_t{sequence} * args.heads + first_head;
  for (int head = warp; head < heads; head += kWarps) {
    const int64_t first_part = (first_row + head) * scratch.splits;
    float tops[kMaxSplits / 32], sums[kMaxSplits / 32];
    float top = -INFINITY;
#pragma unroll
    for (int i = 0; i < kMaxSplits / 32; ++i) {
      const bool exists = i * 32 + lane < parts;
      tops[i] = exists ? __ldcg(scratch.tops + first_part + i * 32 + lane) : -INFINITY;
      sums[i] = exists ? __ldcg(scratch.sums + first_part + i * 32 + lane) : 0.0f;
      top = fmaxf(top, tops[i]);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
    }
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < kMaxSplits / 32; ++i) {
      tops[i] = exp2_fast(tops[i] - top);
      total += tops[i] * sums[i];
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      total += __shfl_xor_sync(0xffffffffu, total, offset);
    }
#pragma unroll
    for (int i = 0; i < kMaxSplits / 32; ++i) weights[head][i * 32 + lane] = tops[i] / total;
  }
  __syncthreads();
  const int fours = args.head_size / 4;
  T* out = static_cast<T*>(args.out) + (token * args.heads + first_head) * args.head_size;
  for (int i = threadIdx.x; i < heads * fours; i += kWarps * 32) {
    const int head = i / fours;
    const float4* values =
        reinterpret_cast<const float4*>(scratch.values + (first_row + head) * scratch.splits *
                                                             static_cast<int64_t>(args.head_size)) +
        i % fours;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 16
    for (int part = 0; part < parts; ++part) {
      const float4 value = __ldcg(values + part * fours);
      const float weight = weights[head][part];
      sum.x += weight * value.x;
      sum.y += weight * value.y;
      sum.z += weight * value.z;
      sum.w += weight * value.w;
    }
    *reinterpret_cast<uint2*>(out + i * 4) =
        make_uint2(pack<T>(sum.x, sum.y), pack<T>(sum.z, sum.w));
  }
}

template <typename T, int kD, int kWarps>
__global__ void __launch_bounds__(kWarps * 32)
    decode_kernel(const __grid_constant__ AttentionArgs args,
                  const __grid_constant__ Scratch scratch) {
  extern __shared__ __align__(128) unsigned char shared[];
  start_next();
  const int split = blockIdx.x;
  const int sequence = blockIdx.z;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int64_t token = args.cu_seqlens_q[sequence];
  if (args.cu_seqlens_q[sequence + 1] - token != 1) return wait_for_previous();

  const int group = args.heads / args.kv_heads;
  const int head_tiles = (group + kHeads - 1) / kHeads;
  const int kv_head = blockIdx.y / head_tiles;
  const int head_in_group = static_cast<int>(blockIdx.y) % head_tiles * kHeads;
  const int first_head = kv_head * group + head_in_group;
  const int heads = min(kHeads, group - head_in_group);

  const int length = args.kv_lengths[sequence];
  const int first_seen = args.window > 0 ? max(0, length - args.window) : 0;
  const int keys_seen = length - first_seen;
  const int wanted = max(1, min(scratch.splits, keys_seen / scratch.least_keys));
  const int per_split = max(kFewestKeys, (keys_seen + wanted - 1) / wanted);
  const int span = (per_split + kWarps * kKeys - 1) / (kWarps * kKeys) * (kWarps * kKeys);
  const int parts = (keys_seen + span - 1) / span;
  const int begin = first_seen + split * span;
  const int end = min(begin + span, length);
  if (begin >= end) {
    wait_for_previous();
    if (length == 0 && split == 0) {
      T* out = static_cast<T*>(args.out) + (token * args.heads + first_head) * args.head_size;
      for (int i = threadIdx.x; i < heads * args.head_size; i += kWarps * 32) {
        out[i] = from_float<T>(0.0f);
      }
    }
    return;
  }

  const uint32_t query_tile = shared_address(shared);
  const uint32_t warp_tiles = query_tile + kTileBytes<kD> + warp * kWarpBytes<kD>;
  const int32_t* block_table = args.block_tables + int64_t{sequence} * args.max_blocks;
  const int64_t slot_stride = int64_t{args.kv_heads} * args.head_size;
  const HeadPages<T> keys{static_cast<const T*>(args.key) + kv_head * args.head_size, slot_stride,
                          args.head_size};
  const HeadPages<T> values{static_cast<const T*>(args.value) + kv_head * args.head_size,
                            slot_stride, args.head_size};
  // Into the L2 cache while the kernel before still runs, which at most writes the last of them.
  for (int key = begin + static_cast<int>(threadIdx.x); key < min(end, begin + 2 * kFewestKeys);
       key += kWarps * 32) {
    const int64_t at = slot_of(block_table, args.block_size, key) * slot_stride;
    prefetch_to_l2(keys.data + at, args.head_size * 2);
    prefetch_to_l2(values.data + at, args.head_size * 2);
  }
  wait_for_previous();
  auto first_key = [&](int tile) { return begin + (tile * kWarps + warp) * kKeys; };
  auto start_copies = [&](int tile) {
    if (first_key(tile) < end) {
      const int key = first_key(tile) + lane % kKeys;
      const int slot = key < end ? slot_of(block_table, args.block_size, key) : -1;
      const uint32_t to = warp_tiles + tile % 2 * (2 * kTileBytes<kD>);
      load_16_rows<kD>(to, keys, slot);
      load_16_rows<kD>(to + kTileBytes<kD>, values, slot);
    }
    commit_copies();  // also an empty group: the count of groups is the count of tiles
  };

  constexpr int kChunks = kD / 8;
  for (int i = threadIdx.x; i < kHeads * kChunks; i += kWarps * 32) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    const bool wanted = row < heads && chunk * 8 < args.head_size;
    const T* from = static_cast<const T*>(args.q);
    if (wanted) from += token * args.q_stride + (first_head + row) * args.head_size + chunk * 8;
    copy_async(query_tile + tile_offset<kD>(row, chunk), from, wanted);
  }
  start_copies(0);
  start_copies(1);
  wait_copies<1>();
  __syncthreads();  // the queries, which all threads have copied

  const ScoreTransform transform(args.scale, args.softcap);
  Sums<kD> sums;
  for (int tile = 0; first_key(tile) < end; ++tile) {
    wait_copies<1>();
    __syncwarp();
    const uint32_t key_tile = warp_tiles + tile % 2 * (2 * kTileBytes<kD>);
    attend<T, kD>(sums, query_tile, key_tile, key_tile + kTileBytes<kD>, first_key(tile), end,
                  transform);
    __syncwarp();
    start_copies(tile + 2);
  }
  merge_warps<kD, kWarps>(sums, reinterpret_cast<float*>(shared + kTileBytes<kD>));
  if (warp == 0) {
    write_sums<T, kD>(sums, args, scratch, sequence, split, parts, token, first_head, heads);
  }
  if (parts == 1) return;
  if (is_last(scratch.tickets + int64_t{sequence} * gridDim.y + blockIdx.y, parts)) {
    merge_parts<T, kWarps>(args, scratch, reinterpret_cast<float(*)[kMaxSplits]>(shared), sequence,
                           parts, token, first_head, heads);
  }
}

int head_tiles(const AttentionArgs& args) {
  return (args.heads / args.kv_heads + kHeads - 1) / kHeads;
}

// Parts at most: several blocks per multiprocessor, so that the last ones to end leave little idle.
int most_splits(const AttentionArgs& args, int multiprocessors, size_t scratch_bytes) {
  constexpr int64_t kBlocksPerMultiprocessor = 8;
  const int64_t blocks = int64_t{args.sequences} * args.kv_heads * head_tiles(args);
  if (blocks > kDecodeTickets) return 1;
  const int64_t keys = args.window > 0 ? std::min(args.window, args.max_kv) : args.max_kv;
  const int64_t wanted = (kBlocksPerMultiprocessor * multiprocessors + blocks - 1) / blocks;
  const int64_t useful = (keys + kFewestKeys - 1) / kFewestKeys;
  const int64_t part_bytes = int64_t{args.sequences} * args.heads * (args.head_size + 2) *
                             static_cast<int64_t>(sizeof(float));
  const int64_t room = static_cast<int64_t>(scratch_bytes) / part_bytes;
  const int64_t splits = std::min({wanted, useful, room, int64_t{kMaxSplits}});
  return static_cast<int>(std::max<int64_t>(splits, 1));
}

// Where there are enough blocks without, parts are long: a short one is over before its loads are
// fully under way.
int least_keys(const AttentionArgs& args, int multiprocessors) {
  const int64_t blocks = int64_t{args.sequences} * args.kv_heads * head_tiles(args);
  return static_cast<int>(
      std::clamp<int64_t>(256 * blocks / multiprocessors, kFewestKeys, kMostKeys));
}

template <typename T, int kD, int kWarps>
void decode(Stream stream, const AttentionArgs& args, const Scratch& scratch) {
  const dim3 grid(static_cast<unsigned>(scratch.splits),
                  static_cast<unsigned>(args.kv_heads * head_tiles(args)),
                  static_cast<unsigned>(args.sequences));
  launch(stream, grid, kWarps * 32, kSharedBytes<kD, kWarps>, decode_kernel<T, kD, kWarps>, args,
         scratch);
}

template <int kD>
void decode(Stream stream, const AttentionArgs& args, const Scratch& scratch, bool few) {
  visit_16_bit_dtype(args.dtype, [&]<typename T>(std::type_identity<T>) {
    if (few) {
      decode<T, kD, 4>(stream, args, scratch);
    } else {
      decode<T, kD, 2>(stream, args, scratch);
    }
  });
}

template <typename T>
cudaError_t prepare() {
  cudaError_t status = cudaSuccess;
  const auto allow = [&](auto kernel, int shared_bytes) {
    if (status != cudaSuccess) return;
    status =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  };
  const auto allow_size = [&]<int kD>(std::integral_constant<int, kD>) {
    allow(decode_kernel<T, kD, 2>, kSharedBytes<kD, 2>);
    allow(decode_kernel<T, kD, 4>, kSharedBytes<kD, 4>);
  };
  allow_size(std::integral_constant<int, 64>());
  allow_size(std::integral_constant<int, 128>());
  allow_size(std::integral_constant<int, 256>());
  return status;
}

}  // namespace

void attention_decode(Stream stream, const AttentionArgs& args, void* scratch, size_t scratch_bytes,
                      uint32_t* tickets) {
  const int splits = most_splits(args, stream.multiprocessors, scratch_bytes);
  const int64_t parts = int64_t{args.sequences} * args.heads * splits;
  float* values = static_cast<float*>(scratch);  // first: they are read 16 bytes at a time
  float* tops = values + parts * args.head_size;
  // Of very few blocks a part takes as long as its slowest warp: four share it, a tile each. They
  // fill a multiprocessor's shared memory, so of more blocks those of two warps end sooner.
  constexpr int kFewBlocks = 8;
  const bool few = args.sequences * args.kv_heads * head_tiles(args) <= kFewBlocks;
  const Scratch places{tops,    tops + parts, values,
                       tickets, splits,       least_keys(args, stream.multiprocessors)};
  if (args.head_size <= 64) {
    decode<64>(stream, args, places, few);
  } else if (args.head_size <= 128) {
    decode<128>(stream, args, places, few);
  } else {
    decode<256>(stream, args, places, few);
  }
}

cudaError_t prepare_decode() {
  const cudaError_t status = prepare<bfloat16>();
  return status != cudaSuccess ? status : prepare<float16>();
}

}  // namespace lorax::cuda
