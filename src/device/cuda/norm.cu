// RMSNorm: one block per row. The row is read once and waits in registers for its mean.
#include "device/cuda/kernels.h"
#include "device/cuda/vector.cuh"

namespace lorax::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kVectors = 4;  // per thread: rows of up to 512 * 4 * 4 elements
constexpr int64_t kMaxWidth = int64_t{kThreads} * kVectors * 4;

// The sum over all threads of the block, in each of them.
__device__ float block_sum(float value) {
  __shared__ float warp_sums[kThreads / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0.0f;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += warp_sums[warp];
  return sum;
}

// kAdd: out (float32) += norm(x). x and out may be the same memory.
template <typename T, typename Out, bool kAdd>
__global__ void __launch_bounds__(kThreads)
    norm_kernel(const T* x, int64_t x_stride, const float* weight, int64_t width, float eps,
                Out* out, int64_t out_stride) {
  const T* from = x + blockIdx.x * x_stride;
  Out* to = out + blockIdx.x * out_stride;
  float values[kVectors][4];
  float sum = 0.0f;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int64_t i = (int64_t{v} * blockDim.x + threadIdx.x) * 4;
    if (i >= width) break;
    load(from + i, values[v]);
#pragma unroll
    for (float value : values[v]) sum += value * value;
  }
  const float factor = 1.0f / sqrtf(block_sum(sum) / static_cast<float>(width) + eps);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int64_t i = (int64_t{v} * blockDim.x + threadIdx.x) * 4;
    if (i >= width) break;
    float w[4], result[4];
    load(weight + i, w);
    if constexpr (kAdd) load(to + i, result);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float normed = values[v][j] * factor * w[j];
      result[j] = kAdd ? result[j] + normed : normed;
    }
    store(result, to + i);
  }
}

// The same for any width and alignment; reads the row twice.
template <typename T, typename Out, bool kAdd>
__global__ void __launch_bounds__(kThreads)
    norm_any_kernel(const T* x, int64_t x_stride, const float* weight, int64_t width, float eps,
                    Out* out, int64_t out_stride) {
  const T* from = x + blockIdx.x * x_stride;
  Out* to = out + blockIdx.x * out_stride;
  float sum = 0.0f;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    const float value = to_float(from[i]);
    sum += value * value;
  }
  const float factor = 1.0f / sqrtf(block_sum(sum) / static_cast<float>(width) + eps);
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    const float normed = to_float(from[i]) * factor * weight[i];
    if constexpr (kAdd) {
      to[i] += normed;
    } else {
      to[i] = from_float<Out>(normed);
    }
  }
}

template <typename T, typename Out, bool kAdd>
void launch(cudaStream_t stream, Rows x, const float* weight, int64_t rows, int64_t width,
            float eps, Rows out) {
  const bool by_four = fours(x, width) && fours(out, width) && width <= kMaxWidth &&
                       reinterpret_cast<uintptr_t>(weight) % 16 == 0;
  const unsigned grid = static_cast<unsigned>(rows);
  // Whole warps, no more than the row has work for.
  const unsigned threads =
      static_cast<unsigned>(width >= 4 * kThreads ? kThreads : (width + 127) / 128 * 32);
  const T* from = static_cast<const T*>(x.data);
  Out* to = static_cast<Out*>(out.data);
  if (by_four) {
    norm_kernel<T, Out, kAdd>
        <<<grid, threads, 0, stream>>>(from, x.stride, weight, width, eps, to, out.stride);
  } else {
    norm_any_kernel<T, Out, kAdd>
        <<<grid, threads, 0, stream>>>(from, x.stride, weight, width, eps, to, out.stride);
  }
}

}  // namespace

void rms_norm(cudaStream_t stream, Rows x, const float* weight, int64_t rows, int64_t width,
              float eps, Rows out, bool add) {
  if (rows == 0) return;
  visit_model_dtype(x.dtype, [&]<typename T>(std::type_identity<T>) {
    if (add) {
      launch<T, float, true>(stream, x, weight, rows, width, eps, out);
    } else if (out.dtype == DType::kFloat32) {
      launch<T, float, false>(stream, x, weight, rows, width, eps, out);
    } else {
      launch<T, bfloat16, false>(stream, x, weight, rows, width, eps, out);
    }
  });
}

}  // namespace lorax::cuda
