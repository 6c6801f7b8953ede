// What each row of logits holds, in one pass by many blocks; and the operations on single logits.
#include <cfloat>

#include "device/cuda/ops/kernels.h"
#include "device/cuda/ptx/vector.cuh"

namespace lorax::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 32;
constexpr int64_t kChunk = int64_t{kThreads} * kPerThread;
constexpr int kWarps = kThreads / 32;

// Of a chunk of a row. `sum` is of e^(x - max).
struct Part {
  float max;
  int32_t argmax;
  float sum;
  int32_t has_nan;
};

__device__ void merge(Part& a, const Part& b) {
  const float max = fmaxf(a.max, b.max);
  a.argmax = a.max > b.max ? a.argmax : b.max > a.max ? b.argmax : min(a.argmax, b.argmax);
  // A part without a number above -infinity has no sum; it would be scaled by e^NaN.
  const float from_a = a.max > -INFINITY ? a.sum * expf(a.max - max) : 0.0f;
  const float from_b = b.max > -INFINITY ? b.sum * expf(b.max - max) : 0.0f;
  a.sum = from_a + from_b;
  a.max = max;
  a.has_nan |= b.has_nan;
}

// The merged part of the warp, in each lane: a merge gives the same both ways round.
__device__ Part merge_warp(Part part) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    Part other;
    other.max = __shfl_xor_sync(0xffffffffu, part.max, offset);
    other.argmax = __shfl_xor_sync(0xffffffffu, part.argmax, offset);
    other.sum = __shfl_xor_sync(0xffffffffu, part.sum, offset);
    other.has_nan = __shfl_xor_sync(0xffffffffu, part.has_nan, offset);
    merge(part, other);
  }
  return part;
}

// Grid (chunks, rows).
__global__ void __launch_bounds__(kThreads)
    parts_kernel(const float* logits, int64_t stride, int64_t width, Part* parts) {
  const float* x = logits + blockIdx.y * stride;
  const int64_t begin = blockIdx.x * kChunk + threadIdx.x;
  float values[kPerThread];
  Part part{-INFINITY, INT32_MAX, 0.0f, 0};
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int64_t i = begin + int64_t{j} * kThreads;
    values[j] = i < width ? x[i] : -INFINITY;
    if (isnan(values[j])) part.has_nan = 1;
    if (values[j] > part.max) {
      part.max = values[j];
      part.argmax = static_cast<int32_t>(i);
    }
  }
  if (part.max > -INFINITY) {
#pragma unroll
    for (float value : values) part.sum += expf(value - part.max);
  }
  part = merge_warp(part);
  __shared__ Part warps[kWarps];
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = part;
  __syncthreads();
  if (threadIdx.x > 0) return;
  part = warps[0];
  for (int warp = 1; warp < kWarps; ++warp) merge(part, warps[warp]);
  parts[int64_t{blockIdx.y} * gridDim.x + blockIdx.x] = part;
}

// One warp per row. Sums of parts in double.
__global__ void merge_kernel(const Part* parts, int chunks, int32_t* ids, RowStatistics* out) {
  const Part* row = parts + int64_t{blockIdx.x} * chunks;
  Part all{-INFINITY, INT32_MAX, 0.0f, 0};
  for (int i = threadIdx.x; i < chunks; i += 32) {
    Part part = row[i];
    part.sum = 0.0f;
    merge(all, part);
  }
  all = merge_warp(all);
  double sum = 0.0;
  for (int i = threadIdx.x; i < chunks; i += 32) {
    if (row[i].max > -INFINITY) {
      sum += static_cast<double>(row[i].sum) * exp(static_cast<double>(row[i].max) - all.max);
    }
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (threadIdx.x > 0) return;
  const bool usable = all.has_nan == 0 && all.max > -INFINITY && all.max < INFINITY;
  const int32_t argmax = all.argmax == INT32_MAX ? 0 : all.argmax;
  ids[blockIdx.x] = argmax;
  out[blockIdx.x] = {.max = all.max,
                     .argmax = argmax,
                     .log_sum_exp = static_cast<double>(all.max) + log(sum),
                     .is_usable = usable ? 1 : 0};
}

__global__ void gather_kernel(const float* logits, int64_t stride, int64_t rows, const int32_t* ids,
                              float* out) {
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= rows) return;
  const int32_t id = ids[row];
  out[row] = id < 0 ? NAN : logits[row * stride + id];
}

// One block per edited row; both kernels.
__global__ void edit_kernel(float* logits, int64_t stride, const EditedRow* rows,
                            const LogitEdit* edits, float* saved) {
  const EditedRow row = rows[blockIdx.x];
  const Watermark mark = row.watermark;
  float* x = logits + row.row * stride;
  for (int i = row.begin + static_cast<int>(threadIdx.x); i < row.end; i += kThreads) {
    const LogitEdit edit = edits[i];
    const float gain = is_green(mark.key, mark.share, edit.id) ? mark.delta : 0.0f;
    saved[i] = x[edit.id];
    float value = saved[i] + gain;
    if (edit.seen != 0) {
      value = value > 0.0f ? value / row.repetition_penalty : value * row.repetition_penalty;
    }
    // Rounded as on the CPU: products on their own.
    value -= __fmul_rn(static_cast<float>(edit.count), row.frequency_penalty);
    if (edit.count > 0) value -= row.presence_penalty;
    x[edit.id] = fminf(value + edit.bias - gain, FLT_MAX);
  }
}

__global__ void restore_kernel(float* logits, int64_t stride, const EditedRow* rows,
                               const LogitEdit* edits, const float* saved) {
  const EditedRow row = rows[blockIdx.x];
  float* x = logits + row.row * stride;
  for (int i = row.begin + static_cast<int>(threadIdx.x); i < row.end; i += kThreads) {
    x[edits[i].id] = saved[i];
  }
}

int64_t chunks_of(int64_t width) { return (width + kChunk - 1) / kChunk; }

}  // namespace

size_t statistics_scratch_bytes(int64_t rows, int64_t width) {
  return static_cast<size_t>(rows * chunks_of(width)) * sizeof(Part);
}

void row_statistics(cudaStream_t stream, const LogitRows& logits, void* scratch, int32_t* ids,
                    RowStatistics* out) {
  // A grid has at most 65,535 rows of blocks.
  constexpr int64_t kMostRows = 32768;
  const unsigned chunks = static_cast<unsigned>(chunks_of(logits.width));
  Part* parts = static_cast<Part*>(scratch);
  for (int64_t first = 0; first < logits.rows; first += kMostRows) {
    const unsigned rows = static_cast<unsigned>(std::min(kMostRows, logits.rows - first));
    parts_kernel<<<dim3(chunks, rows), kThreads, 0, stream>>>(
        logits.data + first * logits.stride, logits.stride, logits.width, parts + first * chunks);
  }
  if (logits.rows == 0) return;
  merge_kernel<<<static_cast<unsigned>(logits.rows), 32, 0, stream>>>(
      parts, static_cast<int>(chunks), ids, out);
}

void gather_logits(cudaStream_t stream, const LogitRows& logits, const int32_t* ids, float* out) {
  if (logits.rows == 0) return;
  gather_kernel<<<blocks_for(logits.rows, kThreads), kThreads, 0, stream>>>(
      logits.data, logits.stride, logits.rows, ids, out);
}

void edit_logits(cudaStream_t stream, const LogitRows& logits, DeviceList<const EditedRow> rows,
                 const LogitEdit* edits, float* saved) {
  if (rows.size == 0) return;
  edit_kernel<<<static_cast<unsigned>(rows.size), kThreads, 0, stream>>>(logits.data, logits.stride,
                                                                         rows.data, edits, saved);
}

void restore_logits(cudaStream_t stream, const LogitRows& logits, DeviceList<const EditedRow> rows,
                    const LogitEdit* edits, const float* saved) {
  if (rows.size == 0) return;
  restore_kernel<<<static_cast<unsigned>(rows.size), kThreads, 0, stream>>>(
      logits.data, logits.stride, rows.data, edits, saved);
}

}  // namespace lorax::cuda
