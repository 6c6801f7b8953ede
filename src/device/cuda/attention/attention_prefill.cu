// Attention of many query rows (FlashAttention-2's schedule) over paged keys and values.
//
// A block takes 64 packed rows of one key/value head: the rows of all query heads that share it,
// packed row r being head r % group of query r / group. Four warps own 16 packed rows each and walk
// the same tiles of 64 keys. Keys begin at the first one that any row of the block sees and end at
// the last: nothing outside is read. While a tile's scores are computed its values are on their
// way, and during the product with the values the next keys.
#include "device/cuda/attention/attention_tile.cuh"
#include "device/cuda/ops/kernels.h"

namespace lorax::cuda {
namespace {

constexpr int kRows = 64;
constexpr int kKeys = 64;
constexpr int kWarps = kRows / 16;

template <int kD>
constexpr int kTileBytes = kRows* kD * 2;  // of queries, keys or values (kRows == kKeys)
template <int kD>
constexpr int kSharedBytes = 3 * kTileBytes<kD>;

// The keys [low, high] that a query row sees; none if high < low.
struct Visible {
  int low;
  int high;
};

struct BlockRange {
  const int32_t* block_table;
  int group;        // query heads per key/value head
  int packed_rows;  // of the sequence
  int first_row;    // first packed row of the block
  int first_query;  // row of the step where the sequence begins
  int offset;       // absolute position of the sequence's first query row
  int window;

  __device__ Visible visible(int packed_row) const {
    if (packed_row >= packed_rows) return {0, -1};
    const int position = offset + packed_row / group;
    return {window > 0 ? max(0, position - window + 1) : 0, position};
  }
};

// Starts copying the block's query rows; rows and chunks that do not exist become zeros.
template <typename T, int kD>
__device__ void load_queries(uint32_t tile, const AttentionArgs& args, const BlockRange& range,
                             int kv_head) {
  constexpr int kChunks = kD / 8;
  for (int i = threadIdx.x; i < kRows * kChunks; i += kWarps * 32) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    const int packed = range.first_row + row;
    const bool wanted = packed < range.packed_rows && chunk * 8 < args.head_size;
    const T* from = static_cast<const T*>(args.q);
    if (wanted) {
      from += (range.first_query + packed / range.group) * args.q_stride +
              (kv_head * range.group + packed % range.group) * args.head_size + chunk * 8;
    }
    copy_async(tile + tile_offset<kD>(row, chunk), from, wanted);
  }
}

// scores = scores of the warp's 16 rows and the tile's 64 keys.
template <typename T, int kD>
__device__ void multiply_keys(float (&scores)[kKeys / 8][4], uint32_t query_tile,
                              uint32_t key_tile) {
#pragma unroll
  for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[j][i] = 0.0f;
  }
#pragma unroll
  for (int step = 0; step < kD / 16; ++step) {
    uint32_t a[4];
    load_a<kD>(a, query_tile, step);
#pragma unroll
    for (int part = 0; part < kKeys / 16; ++part) {
      uint32_t b[4];
      load_keys<kD>(b, key_tile + part * (16 * kD * 2), step);
      mma<T>(scores[2 * part], a, b[0], b[1]);
      mma<T>(scores[2 * part + 1], a, b[2], b[3]);
    }
  }
}

// sums += weights * values; the weights are rounded to T.
template <typename T, int kD>
__device__ void multiply_values(float (&sums)[kD / 8][4], const float (&weights)[kKeys / 8][4],
                                uint32_t value_tile) {
#pragma unroll
  for (int part = 0; part < kKeys / 16; ++part) {
    const float(&low)[4] = weights[2 * part];
    const float(&high)[4] = weights[2 * part + 1];
    const uint32_t a[4] = {pack<T>(low[0], low[1]), pack<T>(low[2], low[3]),
                           pack<T>(high[0], high[1]), pack<T>(high[2], high[3])};
#pragma unroll
    for (int chunk = 0; chunk < kD / 8; chunk += 2) {
      uint32_t b[4];
      load_values<kD>(b, value_tile + part * (16 * kD * 2), chunk);
      mma<T>(sums[chunk], a, b[0], b[1]);
      mma<T>(sums[chunk + 1], a, b[2], b[3]);
    }
  }
}

// Scores of keys from first_key on become weights; rows[0] and rows[1] are the lane's rows g and
// g + 8, sees[..] what they see.
template <int kD>
__device__ void softmax_tile(float (&scores)[kKeys / 8][4], float (&sums)[kD / 8][4],
                             RunningRow (&rows)[2], const Visible (&sees)[2], int first_key,
                             bool all_visible, const ScoreTransform& transform) {
  const int t = threadIdx.x % 4;
  float tops[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = first_key + j * 8 + t * 2 + i % 2;
      const bool seen = all_visible || (key >= sees[i / 2].low && key <= sees[i / 2].high);
      // A choice, not a sum: the score of a key that is not seen may be NaN.
      scores[j][i] = seen ? transform(scores[j][i]) : -INFINITY;
      tops[i / 2] = fmaxf(tops[i / 2], scores[j][i]);
    }
  }
  float bases[2];
  float rescales[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) rescales[i] = raise(rows[i], row_max(tops[i]), bases[i]);
#pragma unroll
  for (int chunk = 0; chunk < kD / 8; ++chunk) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[chunk][i] *= rescales[i / 2];
  }
#pragma unroll
  for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[j][i] = exp2_fast(scores[j][i] - bases[i / 2]);
      rows[i / 2].sum += scores[j][i];
    }
  }
}

// Divides by the rows' sums and writes them; the warp's part of the query tile serves as a buffer
// that turns the operand layout into rows.
template <typename T, int kD>
__device__ void write_rows(const float (&sums)[kD / 8][4], const RunningRow (&rows)[2],
                           uint32_t buffer, const AttentionArgs& args, const BlockRange& range,
                           int kv_head, int first_packed) {
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const float inverse[2] = {1.0f / row_sum(rows[0].sum), 1.0f / row_sum(rows[1].sum)};
#pragma unroll
  for (int chunk = 0; chunk < kD / 8; ++chunk) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t pair =
          pack<T>(sums[chunk][2 * half] * inverse[half], sums[chunk][2 * half + 1] * inverse[half]);
      const uint32_t to = buffer + tile_offset<kD>(g + 8 * half, chunk) + t * 4;
      asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(pair) : "memory");
    }
  }
  __syncwarp();
  constexpr int kChunks = kD / 8;
#pragma unroll
  for (int i = lane; i < 16 * kChunks; i += 32) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    const int packed = first_packed + row;
    if (packed >= range.packed_rows || chunk * 8 >= args.head_size) continue;
    uint4 value;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "r"(buffer + tile_offset<kD>(row, chunk))
                 : "memory");
    const int64_t token = range.first_query + packed / range.group;
    const int64_t head = kv_head * range.group + packed % range.group;
    T* to = static_cast<T*>(args.out) + (token * args.heads + head) * args.head_size + chunk * 8;
    *reinterpret_cast<uint4*>(to) = value;
  }
}

template <typename T, int kD>
__global__ void __launch_bounds__(kWarps * 32, 2)
    prefill_kernel(const __grid_constant__ AttentionArgs args) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int sequence = blockIdx.z;
  const int kv_head = blockIdx.y;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;

  const int first_query = args.cu_seqlens_q[sequence];
  const int queries = args.cu_seqlens_q[sequence + 1] - first_query;
  const int length = args.kv_lengths[sequence];
  const int group = args.heads / args.kv_heads;
  const BlockRange range{.block_table = args.block_tables + int64_t{sequence} * args.max_blocks,
                         .group = group,
                         .packed_rows = queries * group,
                         // The last tiles see the most keys: they start first.
                         .first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows,
                         .first_query = first_query,
                         .offset = length - queries,
                         .window = args.window};
  if (queries <= 1 || range.first_row >= range.packed_rows) return;  // 1: attention_decode

  const int last_row = min(range.first_row + kRows, range.packed_rows) - 1;
  const int begin = range.visible(range.first_row).low;
  const int end = range.visible(last_row).high + 1;
  // The keys that every row of the block sees, if all 64 rows exist.
  const Visible common =
      range.first_row + kRows <= range.packed_rows
          ? Visible{range.visible(last_row).low, range.visible(range.first_row).high}
          : Visible{0, -1};

  const uint32_t query_tile = shared_address(shared);
  const uint32_t key_tile = query_tile + kTileBytes<kD>;
  const uint32_t value_tile = key_tile + kTileBytes<kD>;
  const uint32_t warp_rows = warp * (16 * kD * 2);  // of any tile
  const int64_t slot_stride = int64_t{args.kv_heads} * args.head_size;
  const HeadPages<T> keys{static_cast<const T*>(args.key) + kv_head * args.head_size, slot_stride,
                          args.head_size};
  const HeadPages<T> values{static_cast<const T*>(args.value) + kv_head * args.head_size,
                            slot_stride, args.head_size};
  // Lane i of a warp knows the slot of the i-th of the 16 keys that the warp loads.
  auto find_slot = [&](int first_key) {
    const int key = first_key + warp * 16 + lane % 16;
    return key < end ? slot_of(range.block_table, args.block_size, key) : -1;
  };

  load_queries<T, kD>(query_tile, args, range, kv_head);
  int slot = find_slot(begin);
  load_16_rows<kD>(key_tile + warp_rows, keys, slot);
  commit_copies();

  const int first_packed = range.first_row + warp * 16;
  const Visible sees[2] = {range.visible(first_packed + lane / 4),
                           range.visible(first_packed + lane / 4 + 8)};
  const ScoreTransform transform(args.scale, args.softcap);
  RunningRow rows[2];
  float sums[kD / 8][4] = {};
  for (int first_key = begin; first_key < end; first_key += kKeys) {
    wait_copies<0>();
    __syncthreads();  // keys have arrived; nobody reads the old values any more
    load_16_rows<kD>(value_tile + warp_rows, values, slot);
    commit_copies();
    float scores[kKeys / 8][4];
    multiply_keys<T, kD>(scores, query_tile + warp_rows, key_tile);
    const bool all_visible = first_key >= common.low && first_key + kKeys - 1 <= common.high;
    softmax_tile<kD>(scores, sums, rows, sees, first_key, all_visible, transform);
    wait_copies<0>();
    __syncthreads();  // values have arrived; nobody reads the old keys any more
    if (first_key + kKeys < end) {
      slot = find_slot(first_key + kKeys);
      load_16_rows<kD>(key_tile + warp_rows, keys, slot);
    }
    commit_copies();
    multiply_values<T, kD>(sums, scores, value_tile);
  }
  write_rows<T, kD>(sums, rows, query_tile + warp_rows, args, range, kv_head, first_packed);
}

template <int kD>
void launch(cudaStream_t stream, const AttentionArgs& args) {
  const int packed_rows = args.max_q * (args.heads / args.kv_heads);
  const dim3 grid(static_cast<unsigned>((packed_rows + kRows - 1) / kRows),
                  static_cast<unsigned>(args.kv_heads), static_cast<unsigned>(args.sequences));
  visit_16_bit_dtype(args.dtype, [&]<typename T>(std::type_identity<T>) {
    prefill_kernel<T, kD><<<grid, kWarps * 32, kSharedBytes<kD>, stream>>>(args);
  });
}

template <typename T, int kD>
cudaError_t prepare() {
  return cudaFuncSetAttribute(prefill_kernel<T, kD>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              kSharedBytes<kD>);
}

}  // namespace

void attention_prefill(cudaStream_t stream, const AttentionArgs& args) {
  if (args.head_size <= 64) {
    launch<64>(stream, args);
  } else if (args.head_size <= 128) {
    launch<128>(stream, args);
  } else {
    launch<256>(stream, args);
  }
}

cudaError_t prepare_prefill() {
  for (cudaError_t (*prepare_size)() :
       {prepare<bfloat16, 64>, prepare<bfloat16, 128>, prepare<bfloat16, 256>, prepare<float16, 64>,
        prepare<float16, 128>, prepare<float16, 256>}) {
    if (const cudaError_t status = prepare_size(); status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace lorax::cuda
