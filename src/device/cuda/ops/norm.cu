// RMSNorm: one block per row. The row is read once and waits in registers for its mean.
#include "device/cuda/ops/kernels.h"
#include "device/cuda/ops/launch.cuh"
#include "device/cuda/ptx/vector.cuh"

namespace lorax::cuda {
namespace {

// Small blocks: they are to find room beside those of the product that runs before.
constexpr int kThreads = 512;
constexpr int kFewVectors = 2;   // of four elements that a thread takes: rows of up to 4,096
constexpr int kMostVectors = 4;  // 8,192
constexpr int64_t kMaxWidth = int64_t{kThreads} * kMostVectors * 4;

template <int kVectors>
using Row = float[kVectors][4];  // a thread's share

// The sum over all threads of the block, in each of them. `warp_sums` is this call's own.
__device__ float block_sum(float value, float (&warp_sums)[kThreads / 32]) {
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

__device__ int64_t place(int vector) { return (int64_t{vector} * blockDim.x + threadIdx.x) * 4; }

template <typename T, int kVectors>
__device__ void load_row(const T* from, int64_t width, float (&row)[kVectors][4]) {
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (place(v) < width) load(from + place(v), row[v]);
  }
}

template <typename T, int kVectors>
__device__ void store_row(const float (&row)[kVectors][4], int64_t width, T* to) {
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (place(v) < width) store(row[v], to + place(v));
  }
}

// 1 / sqrt(mean(row^2) + eps).
template <int kVectors>
__device__ float norm_factor(const float (&row)[kVectors][4], int64_t width, float eps,
                             float (&warp_sums)[kThreads / 32]) {
  float sum = 0.0f;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (place(v) >= width) break;
#pragma unroll
    for (float value : row[v]) sum += value * value;
  }
  return 1.0f / sqrtf(block_sum(sum, warp_sums) / static_cast<float>(width) + eps);
}

// kAdd: out (float32) += norm(x). x and out may be the same memory.
template <int kVectors, typename T, typename Out, bool kAdd>
__global__ void __launch_bounds__(kThreads)
    norm_kernel(const T* x, int64_t x_stride, const float* weight, int64_t width, float eps,
                Out* out, int64_t out_stride) {
  __shared__ float warp_sums[kThreads / 32];
  start_next();
  Row<kVectors> weights, values, result;
  load_row(weight, width, weights);
  wait_for_previous();
  Out* to = out + blockIdx.x * out_stride;
  load_row(x + blockIdx.x * x_stride, width, values);
  if constexpr (kAdd) load_row(to, width, result);
  const float factor = norm_factor(values, width, eps, warp_sums);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float normed = values[v][j] * factor * weights[v][j];
      result[v][j] = kAdd ? result[v][j] + normed : normed;
    }
  }
  store_row(result, width, to);
}

// residual += norm(x), then out = norm(residual): two norms for one launch, the same bits.
template <int kVectors, typename T, typename Out>
__global__ void __launch_bounds__(kThreads, kVectors == kFewVectors ? 2 : 1)
    add_norm_kernel(const T* x, int64_t x_stride, const float* weight, int64_t width, float eps,
                    float* residual, int64_t residual_stride, const float* next_weight,
                    float next_eps, Out* out, int64_t out_stride) {
  __shared__ float warp_sums[2][kThreads / 32];
  start_next();
  Row<kVectors> weights, next_weights, values, sums;
  load_row(weight, width, weights);
  load_row(next_weight, width, next_weights);
  wait_for_previous();
  float* sum_to = residual + blockIdx.x * residual_stride;
  load_row(x + blockIdx.x * x_stride, width, values);
  load_row(sum_to, width, sums);
  const float factor = norm_factor(values, width, eps, warp_sums[0]);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[v][j] += values[v][j] * factor * weights[v][j];
  }
  store_row(sums, width, sum_to);
  const float next_factor = norm_factor(sums, width, next_eps, warp_sums[1]);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
#pragma unroll
    for (int j = 0; j < 4; ++j) values[v][j] = sums[v][j] * next_factor * next_weights[v][j];
  }
  store_row(values, width, out + blockIdx.x * out_stride);
}

// As norm_kernel for any width and alignment; reads the row twice.
template <typename T, typename Out, bool kAdd>
__global__ void __launch_bounds__(kThreads)
    norm_any_kernel(const T* x, int64_t x_stride, const float* weight, int64_t width, float eps,
                    Out* out, int64_t out_stride) {
  __shared__ float warp_sums[kThreads / 32];
  start_next();
  wait_for_previous();
  const T* from = x + blockIdx.x * x_stride;
  Out* to = out + blockIdx.x * out_stride;
  float sum = 0.0f;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    const float value = to_float(from[i]);
    sum += value * value;
  }
  const float factor = 1.0f / sqrtf(block_sum(sum, warp_sums) / static_cast<float>(width) + eps);
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    const float normed = to_float(from[i]) * factor * weight[i];
    if constexpr (kAdd) {
      to[i] += normed;
    } else {
      to[i] = from_float<Out>(normed);
    }
  }
}

// Whole warps, no more than the row has work for.
unsigned threads_for(int64_t width) {
  return static_cast<unsigned>(width >= 4 * kThreads ? kThreads : (width + 127) / 128 * 32);
}

bool takes_fours(const Rows& x, const float* weight, const Rows& out, int64_t width) {
  return fours(x, width) && fours(out, width) && width <= kMaxWidth &&
         reinterpret_cast<uintptr_t>(weight) % 16 == 0;
}

template <typename T, typename Out, bool kAdd>
void norm(Stream stream, Rows x, const float* weight, int64_t rows, int64_t width, float eps,
          Rows out) {
  const auto kernel = !takes_fours(x, weight, out, width) ? norm_any_kernel<T, Out, kAdd>
                      : width <= int64_t{kThreads} * kFewVectors * 4
                          ? norm_kernel<kFewVectors, T, Out, kAdd>
                          : norm_kernel<kMostVectors, T, Out, kAdd>;
  launch(stream, static_cast<unsigned>(rows), threads_for(width), 0, kernel,
         static_cast<const T*>(x.data), x.stride, weight, width, eps, static_cast<Out*>(out.data),
         out.stride);
}

}  // namespace

void rms_norm(Stream stream, Rows x, const float* weight, int64_t rows, int64_t width, float eps,
              Rows out, bool add) {
  if (rows == 0) return;
  if (add) {
    visit_model_dtype(x.dtype, [&]<typename T>(std::type_identity<T>) {
      norm<T, float, true>(stream, x, weight, rows, width, eps, out);
    });
  } else {
    visit_dtypes(x.dtype, out.dtype,
                 [&]<typename T, typename Out>(std::type_identity<T>, std::type_identity<Out>) {
                   norm<T, Out, false>(stream, x, weight, rows, width, eps, out);
                 });
  }
}

void rms_norm_add_norm(Stream stream, Rows x, const float* weight, int64_t rows, int64_t width,
                       float eps, Rows residual, const float* next_weight, float next_eps,
                       Rows out) {
  if (rows == 0) return;
  if (!takes_fours(x, weight, out, width) || !takes_fours(residual, next_weight, out, width)) {
    rms_norm(stream, x, weight, rows, width, eps, residual, true);
    rms_norm(stream, residual, next_weight, rows, width, next_eps, out, false);
    return;
  }
  visit_dtypes(x.dtype, out.dtype,
               [&]<typename T, typename Out>(std::type_identity<T>, std::type_identity<Out>) {
                 const auto kernel = width <= int64_t{kThreads} * kFewVectors * 4
                                         ? add_norm_kernel<kFewVectors, T, Out>
                                         : add_norm_kernel<kMostVectors, T, Out>;
                 launch(stream, static_cast<unsigned>(rows), threads_for(width), 0, kernel,
                        static_cast<const T*>(x.data), x.stride, weight, width, eps,
                        static_cast<float*>(residual.data), residual.stride, next_weight, next_eps,
                        static_cast<Out*>(out.data), out.stride);
               });
}

}  // namespace lorax::cuda
