// Attention of many query rows on Hopper (compute capability 9.0) over paged keys and values, by
// FlashAttention-3's schedule (Shah and others, 2024).
//
// A block takes 128 packed rows of one key/value head, as attention_prefill.cu packs them. Two
// warpgroups own 64 rows each and walk the same tiles of keys; a producer warp brings the tiles'
// pages into rings of shared memory, sixteen tokens a copy, always ahead by as much as fits. A
// warpgroup starts the scores of the next tile before the product of this one's weights with the
// values, so that its softmax runs beside a product of its own and those of the other warpgroup.
//
// Keys begin at the page of the first one that any row of the block sees and end at the last: no
// other page is read. Tokens of these pages that no row sees are masked as keys and arrive as zeros
// as values, so what their memory holds never counts.
#include <algorithm>

#include "device/cuda/attention/attention_tile.cuh"
#include "device/cuda/attention/hopper_softmax.cuh"
#include "device/cuda/attention/prefill_blocks.cuh"
#include "device/cuda/ops/kernels.h"
#include "device/cuda/ptx/hopper.cuh"
#include "device/cuda/runtime/page_map.h"

#ifndef __CUDA_ARCH_FEAT_SM90_ALL
#pragma nv_diag_suppress 177  // of other architectures the kernel is empty and uses nothing of this
#endif

namespace lorax::cuda {
namespace {

constexpr int kThreads = (kConsumers + 1) * 128;
constexpr int kStages = 2;        // of the ring of keys and of that of values
constexpr int kPanelBytes = 128;  // of a row

// What the registers and shared memory of a block have room for.
template <int kD>
constexpr int kKeys = kD == 256 ? 80 : 128;

// How to copy the rows of kTokens tokens, and of one, each 64 columns of a key/value head.
struct PageMaps {
  CUtensorMap keys;
  CUtensorMap values;
  CUtensorMap value_rows;
  int slots;  // of the pool: a row that does not exist
};

// Places in shared memory.
template <int kD>
struct Layout {
  static constexpr int kPanels = kD / 64;
  static constexpr int kKeyPanel = kKeys<kD> * kPanelBytes;
  static constexpr int kQueryPanel = kWarpgroupRows * kPanelBytes;
  static constexpr int kTile = kPanels * kKeyPanel;
  static constexpr int kQueries = kPanels * kQueryPanel;  // of a warpgroup
  static constexpr int kBarriers = kConsumers * kQueries + 2 * kStages * kTile;
  static constexpr int kBytes = kBarriers + 4 * kStages * 8 + 1024;  // 1024: to align the start

  uint32_t start;

  __device__ uint32_t queries(int warpgroup) const { return start + warpgroup * kQueries; }
  __device__ uint32_t keys(int stage) const { return queries(kConsumers) + stage * kTile; }
  __device__ uint32_t values(int stage) const { return keys(kStages + stage); }
  __device__ uint32_t keys_full(int stage) const { return start + kBarriers + stage * 8; }
  __device__ uint32_t keys_free(int stage) const { return keys_full(kStages + stage); }
  __device__ uint32_t values_full(int stage) const { return keys_full(2 * kStages + stage); }
  __device__ uint32_t values_free(int stage) const { return keys_full(3 * kStages + stage); }
};

// ---- producer ---------------------------------------------------------------------------------

// Starts the copies of one tile of keys or values, by one warp.
template <int kD, bool kValues>
__device__ void load_tile(uint32_t tile, uint32_t full, const AttentionArgs& args,
                          const PageMaps& maps, const BlockRange& range, int first_key) {
  using L = Layout<kD>;
  const int lane = threadIdx.x % 32;
  if (lane == 0) arrive_expecting(full, L::kTile);
  __syncwarp();
  for (int copy = lane; copy < kKeys<kD> / kTokens * L::kPanels; copy += 32) {
    const int part = copy / L::kPanels;
    const int panel = copy % L::kPanels;
    const int first = first_key + part * kTokens;
    const uint32_t to = tile + panel * L::kKeyPanel + part * (kTokens * kPanelBytes);
    const int slot =
        first < range.end ? slot_of(range.block_table, args.block_size, first) : maps.slots;
    if constexpr (kValues) {
      // Zeros for what nobody sees: its weight of 0 would not make 0 of a NaN.
      const bool whole = first >= range.begin && first + kTokens <= range.end;
      if (!whole && first < range.end) {
        for (int token = 0; token < kTokens; ++token) {
          const bool seen = first + token >= range.begin && first + token < range.end;
          copy_box(to + token * kPanelBytes, maps.value_rows, panel * 64, range.kv_head,
                   seen ? slot + token : maps.slots, full);
        }
        continue;
      }
    }
    copy_box(to, kValues ? maps.values : maps.keys, panel * 64, range.kv_head, slot, full);
  }
}

template <int kD>
__device__ void produce(const Layout<kD>& shared, const AttentionArgs& args, const PageMaps& maps,
                        const BlockRange& range) {
  const int tiles = range.tiles(kKeys<kD>);
  // Values follow the next tile's keys, as consumers need them.
  for (int tile = 0; tile <= tiles; ++tile) {
    if (tile < tiles) {
      const int stage = tile % kStages;
      wait(shared.keys_free(stage), (tile / kStages + 1) % 2);
      load_tile<kD, false>(shared.keys(stage), shared.keys_full(stage), args, maps, range,
                           range.first_key() + tile * kKeys<kD>);
    }
    if (tile > 0) {
      const int stage = (tile - 1) % kStages;
      wait(shared.values_free(stage), ((tile - 1) / kStages + 1) % 2);
      load_tile<kD, true>(shared.values(stage), shared.values_full(stage), args, maps, range,
                          range.first_key() + (tile - 1) * kKeys<kD>);
    }
  }
}

// ---- consumers --------------------------------------------------------------------------------

// Byte offset of a chunk of 16 bytes of a row of queries.
template <int kD>
__device__ uint32_t query_offset(int row, int chunk) {
  return chunk / 8 * Layout<kD>::kQueryPanel + row * kPanelBytes + ((chunk % 8) ^ (row % 8)) * 16;
}

// Copies the warpgroup's query rows; those that do not exist become zeros.
template <typename T, int kD>
__device__ void load_queries(uint32_t tile, const AttentionArgs& args, const BlockRange& range,
                             int first_row) {
  constexpr int kChunks = kD / 8;
#pragma unroll 4
  for (int i = threadIdx.x % 128; i < kWarpgroupRows * kChunks; i += 128) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    const int packed = first_row + row;
    const bool wanted = packed < range.packed_rows;
    const T* from = static_cast<const T*>(args.q);
    if (wanted) {
      from += (range.first_query + packed / range.group) * args.q_stride +
              (range.kv_head * range.group + packed % range.group) * kD + chunk * 8;
    }
    copy_async(tile + query_offset<kD>(row, chunk), from, wanted);
  }
  commit_copies();
  wait_copies<0>();
  fence_stores();
}

// Starts scores = queries * keys^T.
template <typename T, int kD>
__device__ void multiply_keys(float (&scores)[kKeys<kD> / 2], uint32_t queries, uint32_t keys) {
  using L = Layout<kD>;
  const uint32_t a = matrix_at(queries);
  const uint32_t b = matrix_at(keys);
#pragma unroll
  for (int step = 0; step < kD / 16; ++step) {
    const int panel = step / 4;
    const int column = step % 4 * 32;  // bytes
    multiply_shared<T, kKeys<kD>>(scores, behind(a, panel * L::kQueryPanel + column),
                                  behind(b, panel * L::kKeyPanel + column), step > 0);
  }
}

// Starts products += weights * values.
template <typename T, int kD>
__device__ void multiply_values(float (&products)[kD / 2], const uint32_t (&weights)[kKeys<kD> / 4],
                                uint32_t values) {
  const uint32_t b = matrix_at(values, Layout<kD>::kKeyPanel);
#pragma unroll
  for (int step = 0; step < kKeys<kD> / 16; ++step) {
    multiply_registers<T, kD>(products, weights + 4 * step, behind(b, step * 16 * kPanelBytes));
  }
}

// Divides by the rows' sums and writes them; the warpgroup's query tile turns the products' layout
// into rows.
template <typename T, int kD>
__device__ void write_rows(const float (&products)[kD / 2], const float (&sums)[2], uint32_t tile,
                           const AttentionArgs& args, const BlockRange& range, int first_row) {
  const int lane = threadIdx.x % 32;
  const int warp_row = threadIdx.x / 32 % 4 * 16;
  const float inverse[2] = {1.0f / row_sum(sums[0]), 1.0f / row_sum(sums[1])};
#pragma unroll
  for (int chunk = 0; chunk < kD / 8; ++chunk) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float* pair = products + 4 * chunk + 2 * half;
      const uint32_t rounded = pack<T>(pair[0] * inverse[half], pair[1] * inverse[half]);
      const uint32_t to =
          tile + query_offset<kD>(warp_row + lane / 4 + 8 * half, chunk) + lane % 4 * 4;
      asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(rounded) : "memory");
    }
  }
  __syncwarp();
  constexpr int kChunks = kD / 8;
#pragma unroll 4
  for (int i = lane; i < 16 * kChunks; i += 32) {
    const int row = warp_row + i / kChunks;
    const int chunk = i % kChunks;
    const int packed = first_row + row;
    if (packed >= range.packed_rows) continue;
    uint4 value;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "r"(tile + query_offset<kD>(row, chunk))
                 : "memory");
    const int64_t token = range.first_query + packed / range.group;
    const int64_t head = range.kv_head * range.group + packed % range.group;
    *reinterpret_cast<uint4*>(static_cast<T*>(args.out) + (token * args.heads + head) * kD +
                              chunk * 8) = value;
  }
}

template <typename T, int kD, typename Softmax>
__device__ void consume(const Layout<kD>& shared, const AttentionArgs& args,
                        const BlockRange& range) {
  // The compiler cannot know that it is the same in all lanes.
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
  const int lane = threadIdx.x % 32;
  const int first_row = range.first_row + warpgroup * kWarpgroupRows;
  const int tiles = range.tiles(kKeys<kD>);
  const uint32_t queries = shared.queries(warpgroup);
  load_queries<T, kD>(queries, args, range, first_row);
  sync_warpgroup(1 + warpgroup);

  int first_key = range.first_key();
  // Of the lane's rows: the last key they see, -1 for a row that does not exist.
  const int row = first_row + threadIdx.x / 32 % 4 * 16 + lane / 4;
  const int last_seen[2] = {range.last_seen(row), range.last_seen(row + 8)};
  // The keys that every row of the warpgroup sees.
  const int seen_by_all =
      range.last_seen(first_row + kWarpgroupRows - 1) < 0 ? -1 : range.last_seen(first_row);
  const int seen_from = range.first_seen(range.last_seen(first_row + kWarpgroupRows - 1));
  const auto hide = [&](float(&scores)[kKeys<kD> / 2], float with) {
    if (first_key >= seen_from && first_key + kKeys<kD> - 1 <= seen_by_all) return;
    const int first_seen[2] = {range.first_seen(last_seen[0]), range.first_seen(last_seen[1])};
#pragma unroll
    for (int i = 0; i < kKeys<kD> / 2; ++i) {
      const int key = first_key + i / 4 * 8 + lane % 4 * 2 + i % 2;
      if (key < first_seen[i / 2 % 2] || key > last_seen[i / 2 % 2]) scores[i] = with;
    }
  };
  const auto release = [&](uint32_t barrier) {
    if (lane == 0) arrive(barrier);
  };

  Softmax softmax(args.scale, args.softcap);
  float products[kD / 2] = {};
  float scores[kKeys<kD> / 2];
  uint32_t weights[kKeys<kD> / 4];

  wait(shared.keys_full(0), 0);
  begin_products();
  multiply_keys<T, kD>(scores, queries, shared.keys(0));
  commit_products();
  wait_products<0>();
  pin(scores);
  release(shared.keys_free(0));
  softmax.weigh(scores, hide);
  round_weights<T>(weights, scores);

#pragma unroll 1
  for (int tile = 1; tile < tiles; ++tile) {
    const int stage = tile % kStages;
    const int phase = tile / kStages % 2;
    const int last_stage = (tile - 1) % kStages;
    const int last_phase = (tile - 1) / kStages % 2;
    first_key += kKeys<kD>;
    wait(shared.keys_full(stage), phase);
    pin(scores);
    pin(products);
    pin(weights);
    begin_products();
    multiply_keys<T, kD>(scores, queries, shared.keys(stage));
    commit_products();
    wait(shared.values_full(last_stage), last_phase);
    begin_products();
    multiply_values<T, kD>(products, weights, shared.values(last_stage));
    commit_products();
    add_weights<T>(softmax.sums, weights);
    wait_products<1>();
    pin(scores);
    release(shared.keys_free(stage));
    softmax.weigh(scores, hide);
    wait_products<0>();
    pin(products);
    pin(weights);
    release(shared.values_free(last_stage));
    softmax.rescale(products);
    round_weights<T>(weights, scores);
  }
  const int last_stage = (tiles - 1) % kStages;
  wait(shared.values_full(last_stage), (tiles - 1) / kStages % 2);
  pin(products);
  pin(weights);
  begin_products();
  multiply_values<T, kD>(products, weights, shared.values(last_stage));
  commit_products();
  add_weights<T>(softmax.sums, weights);
  wait_products<0>();
  pin(products);
  sync_warpgroup(1 + warpgroup);  // nobody reads queries any more
  write_rows<T, kD>(products, softmax.sums, queries, args, range, first_row);
}

// ---- the kernel -------------------------------------------------------------------------------

template <typename T, int kD, typename Softmax>
__global__ void __launch_bounds__(kThreads, 1)
    prefill_hopper_kernel(const __grid_constant__ AttentionArgs args,
                          const __grid_constant__ PageMaps maps, int heads_at_once) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ unsigned char raw_shared[];
  const Layout<kD> shared{(shared_address(raw_shared) + 1023) / 1024 * 1024};

  if (threadIdx.x == kConsumers * 128) {
    prefetch_map(maps.keys);
    prefetch_map(maps.values);
  }
  const Work work = find_work(args, heads_at_once);
  if (work.sequence < 0) return;
  const int first_query = args.cu_seqlens_q[work.sequence];
  const int rows = args.cu_seqlens_q[work.sequence + 1] - first_query;
  const int group = args.heads / args.kv_heads;
  BlockRange range{.block_table = args.block_tables + int64_t{work.sequence} * args.max_blocks,
                   .kv_head = work.kv_head,
                   .group = group,
                   .packed_rows = rows * group,
                   .first_row = work.tile * kRows,
                   .first_query = first_query,
                   .offset = args.kv_lengths[work.sequence] - rows,
                   .window = args.window};
  range.begin = range.first_seen(range.last_seen(range.first_row));
  range.end = range.last_seen(min(range.first_row + kRows, range.packed_rows) - 1) + 1;
  if (range.end <= range.begin) return;  // no keys: nobody would end the wait for them

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      init_barrier(shared.keys_full(stage), 1);
      init_barrier(shared.values_full(stage), 1);
      init_barrier(shared.keys_free(stage), kConsumers * 4);  // warps
      init_barrier(shared.values_free(stage), kConsumers * 4);
    }
    publish_barriers();
  }
  __syncthreads();
  if (threadIdx.x / 128 == kConsumers) {
    shrink_registers<24>();
    if (threadIdx.x / 32 % 4 == 0) produce<kD>(shared, args, maps, range);
  } else {
    grow_registers<240>();
    consume<T, kD, Softmax>(shared, args, range);
  }
#endif
}

template <typename T, int kD, typename Softmax>
void launch(cudaStream_t stream, const AttentionArgs& args, const PageMaps& maps) {
  constexpr int64_t kCachedBytes = int64_t{32} << 20;
  const int64_t head_bytes = int64_t{args.max_kv} * kD * 4;
  const int heads_at_once =
      static_cast<int>(std::clamp<int64_t>(kCachedBytes / head_bytes, 1, args.kv_heads));
  // The lengths lie on the device. No sequence has more tiles than the longest, and all together no
  // more than their rows fill, but for one each.
  const int group = args.heads / args.kv_heads;
  const int64_t tiles = std::min(int64_t{args.sequences} * tiles_of(args.max_q, group),
                                 args.tokens * group / kRows + args.sequences);
  prefill_hopper_kernel<T, kD, Softmax>
      <<<static_cast<unsigned>(tiles * args.kv_heads), kThreads, Layout<kD>::kBytes, stream>>>(
          args, maps, heads_at_once);
}

template <int kD>
void launch_softmax(cudaStream_t stream, const AttentionArgs& args, const PageMaps& maps) {
  if (args.dtype == DType::kFloat16) {
    if (args.softcap > 0.0f) {
      launch<float16, kD, RunningSoftmax<true>>(stream, args, maps);
    } else {
      launch<float16, kD, RunningSoftmax<false>>(stream, args, maps);
    }
  } else if (args.softcap > 0.0f && args.softcap * kLog2E <= BoundedSoftmax::kMaxCap) {
    launch<bfloat16, kD, BoundedSoftmax>(stream, args, maps);
  } else if (args.softcap > 0.0f) {
    launch<bfloat16, kD, RunningSoftmax<true>>(stream, args, maps);
  } else {
    launch<bfloat16, kD, RunningSoftmax<false>>(stream, args, maps);
  }
}

template <typename T, int kD, typename... Softmax>
cudaError_t prepare() {
  cudaError_t status = cudaSuccess;
  const auto set = [&](auto kernel) {
    if (status != cudaSuccess) return;
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  Layout<kD>::kBytes);
  };
  (set(prefill_hopper_kernel<T, kD, Softmax>), ...);
  return status;
}

template <int kD>
cudaError_t prepare_size() {
  const cudaError_t status =
      prepare<bfloat16, kD, BoundedSoftmax, RunningSoftmax<true>, RunningSoftmax<false>>();
  return status != cudaSuccess
             ? status
             : prepare<float16, kD, RunningSoftmax<true>, RunningSoftmax<false>>();
}

}  // namespace

bool attention_prefill_hopper(cudaStream_t stream, const AttentionArgs& args) {
  const int d = args.head_size;
  if ((d != 64 && d != 128 && d != 256) || args.block_size % kTokens != 0) return false;
  const int64_t slots = args.blocks * args.block_size;
  PageMaps maps;
  maps.slots = static_cast<int>(slots);
  if (!make_page_map(maps.keys, args.key, slots, args.kv_heads, d, kTokens) ||
      !make_page_map(maps.values, args.value, slots, args.kv_heads, d, kTokens) ||
      !make_page_map(maps.value_rows, args.value, slots, args.kv_heads, d, 1)) {
    return false;
  }
  if (d == 64) {
    launch_softmax<64>(stream, args, maps);
  } else if (d == 128) {
    launch_softmax<128>(stream, args, maps);
  } else {
    launch_softmax<256>(stream, args, maps);
  }
  return true;
}

cudaError_t prepare_prefill_hopper() {
  for (cudaError_t (*prepare)() : {prepare_size<64>, prepare_size<128>, prepare_size<256>}) {
    if (const cudaError_t status = prepare(); status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace lorax::cuda
