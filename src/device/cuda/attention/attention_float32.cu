// Attention in float32, the mode in which results are compared with the definition's: one block per
// query row and head, plain arithmetic, accurate functions. The block's warps take turns over the
// keys, each with a running softmax of its own, and merge at the end in a fixed order.
#include "device/cuda/ops/kernels.h"

namespace lorax::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kPerLane = 8;  // elements of a head of up to 256

// The sequence that owns query row `token`: the last b with cu_seqlens[b] <= token; -1 if the row
// lies behind all of them.
__device__ int sequence_of(const int32_t* cu_seqlens, int sequences, int token) {
  if (token >= cu_seqlens[sequences]) return -1;
  int low = 0;
  int high = sequences;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (cu_seqlens[middle] <= token) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

__device__ float warp_sum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  return value;
}

__global__ void __launch_bounds__(kWarps * 32)
    float32_kernel(const __grid_constant__ AttentionArgs args) {
  __shared__ float tops[kWarps];
  __shared__ float sums[kWarps];
  __shared__ float values[kWarps][kPerLane * 32];
  const int token = static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int d = args.head_size;
  const int sequence = sequence_of(args.cu_seqlens_q, args.sequences, token);
  if (sequence < 0) return;

  const int rows_after = args.cu_seqlens_q[sequence + 1] - token;
  const int position = args.kv_lengths[sequence] - rows_after;
  const int first = args.window > 0 ? max(0, position - args.window + 1) : 0;
  const int32_t* block_table = args.block_tables + int64_t{sequence} * args.max_blocks;
  const int kv_head = head / (args.heads / args.kv_heads);
  const float* q = static_cast<const float*>(args.q) + token * args.q_stride + int64_t{head} * d;
  float query[kPerLane];
  float mine[kPerLane] = {};
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) query[i] = i * 32 + lane < d ? q[i * 32 + lane] : 0.0f;

  float top = -INFINITY;
  float sum = 0.0f;
  for (int key = first + warp; key <= position; key += kWarps) {
    const int64_t slot =
        int64_t{block_table[key / args.block_size]} * args.block_size + key % args.block_size;
    const int64_t at = (slot * args.kv_heads + kv_head) * d;
    const float* k = static_cast<const float*>(args.key) + at;
    const float* v = static_cast<const float*>(args.value) + at;
    float product = 0.0f;
    float value[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int column = i * 32 + lane;
      value[i] = column < d ? v[column] : 0.0f;
      if (column < d) product += query[i] * k[column];
    }
    float score = warp_sum(product) * args.scale;
    if (args.softcap > 0.0f) score = args.softcap * tanhf(score / args.softcap);
    const float new_top = fmaxf(top, score);
    const float rescale = expf(top - new_top);
    const float weight = expf(score - new_top);
    top = new_top;
    sum = sum * rescale + weight;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) mine[i] = mine[i] * rescale + weight * value[i];
  }
  if (lane == 0) {
    tops[warp] = top;
    sums[warp] = sum;
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) values[warp][i * 32 + lane] = mine[i];
  __syncthreads();

  top = -INFINITY;
  for (float warp_top : tops) top = fmaxf(top, warp_top);
  for (int column = threadIdx.x; column < d; column += kWarps * 32) {
    float total = 0.0f;
    float value = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float weight = sums[w] > 0.0f ? expf(tops[w] - top) : 0.0f;
      total += weight * sums[w];
      value += weight * values[w][column];
    }
    static_cast<float*>(args.out)[(int64_t{token} * args.heads + head) * d + column] =
        value / total;
  }
}

}  // namespace

void attention_float32(cudaStream_t stream, const AttentionArgs& args) {
  if (args.tokens == 0) return;
  const dim3 grid(static_cast<unsigned>(args.tokens), static_cast<unsigned>(args.heads));
  float32_kernel<<<grid, kWarps * 32, 0, stream>>>(args);
}

}  // namespace lorax::cuda
