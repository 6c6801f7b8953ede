// Norms of a program.
#pragma once

#include "device/cuda/megakernel/program_blocks.cuh"

namespace lorax::cuda {

struct NormSums {
  float of_x[kProgramWarps];
  float of_residual[kProgramWarps];
};

constexpr int kNormVectors = kProgramNormWidth / (kProgramThreads * 4);  // of four, of a thread

// 1 / sqrt(mean(row^2) + eps).
__device__ inline float norm_factor(const float (&row)[kNormVectors][4], int width, float eps,
                                    float (&warp_sums)[kProgramWarps]) {
  float sum = 0.0f;
#pragma unroll
  for (int v = 0; v < kNormVectors; ++v) {
#pragma unroll
    for (float value : row[v]) sum += value * value;
  }
  return 1.0f / sqrtf(program_sum(sum, warp_sums) / static_cast<float>(width) + eps);
}

// A thread's elements of a row of a product from the sums of its parts.
__device__ inline void add_parts(const ProgramNorm& norm, int row,
                                 float (&values)[kNormVectors][4]) {
  const int first = static_cast<int>(threadIdx.x) * 4;
  constexpr int kStride = kProgramThreads * 4;
  constexpr int kAtOnce = 4;  // parts that are under way
#pragma unroll 1
  for (int begin = 0; begin < norm.parts; begin += kAtOnce) {
    float more[kAtOnce][kNormVectors][4] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t sums = int64_t{(begin + i) * norm.rows + row} * norm.width + first;
#pragma unroll
      for (int v = 0; v < kNormVectors; ++v) {
        if (first + v * kStride < norm.width && begin + i < norm.parts) {
          load_fresh(norm.sums + sums + v * kStride, more[i][v]);
        }
      }
    }
#pragma unroll
    for (const auto& part : more) {
#pragma unroll
      for (int v = 0; v < kNormVectors; ++v) {
#pragma unroll
        for (int i = 0; i < 4; ++i) values[v][i] += part[v][i];
      }
    }
  }
#pragma unroll
  for (int v = 0; v < kNormVectors; ++v) {
#pragma unroll
    for (float& value : values[v]) value = to_float(from_float<bfloat16>(value));
  }
}

// One row. If it is shared, each block writes its part of it and has all in `staged`. Weights are
// on their way before `wait` is called. All this is compact, as it runs once at a time: fetching
// the code takes longer than the arithmetic.
__device__ inline void norm_row(const ProgramNorm& norm, int row, bfloat16* staged, NormSums& sums,
                                const BlockWait& wait, bool is_first) {
  const int width = norm.width;
  const int first = static_cast<int>(threadIdx.x) * 4;
  constexpr int kStride = kProgramThreads * 4;
  const bool adds = norm.x != nullptr;
  const bool is_shared = staged != nullptr;
  // Elements that this block writes.
  const int mine = is_shared ? static_cast<int>(blockIdx.x) * norm.part : 0;
  const unsigned part = is_shared ? norm.part : width;
  float values[kNormVectors][4] = {};
  float total[kNormVectors][4] = {};
  float weights[kNormVectors][4];
  float next_weights[kNormVectors][4];
#pragma unroll
  for (int v = 0; v < kNormVectors; ++v) {
    const int i = first + v * kStride;
    if (adds && i < width) load(norm.weight + i, weights[v]);
    if (i < width) load(norm.next_weight + i, next_weights[v]);
  }
  if (is_first) wait();
  const float* from = norm.from + row * norm.from_stride;
  const bfloat16* x = static_cast<const bfloat16*>(norm.x) + row * norm.x_stride;
#pragma unroll
  for (int v = 0; v < kNormVectors; ++v) {
    const int i = first + v * kStride;
    if (i < width) load_fresh(from + i, total[v]);
    if (i < width && adds && norm.sums == nullptr) load_fresh(x + i, values[v]);
  }
  if (norm.sums != nullptr) add_parts(norm, row, values);
  if (adds) {
    float* to = norm.to + row * norm.to_stride;
    const float factor = norm_factor(values, width, norm.eps, sums.of_x);
#pragma unroll
    for (int v = 0; v < kNormVectors; ++v) {
      const int i = first + v * kStride;
      if (i >= width) break;
#pragma unroll
      for (int j = 0; j < 4; ++j) total[v][j] += values[v][j] * factor * weights[v][j];
      if (static_cast<unsigned>(i - mine) < part) store(total[v], to + i);
    }
  }
  bfloat16* out = static_cast<bfloat16*>(norm.out) + row * norm.out_stride;
  const float factor = norm_factor(total, width, norm.next_eps, sums.of_residual);
#pragma unroll
  for (int v = 0; v < kNormVectors; ++v) {
    const int i = first + v * kStride;
    if (i >= width) break;
#pragma unroll
    for (int j = 0; j < 4; ++j) values[v][j] = total[v][j] * factor * next_weights[v][j];
    if (is_shared) store(values[v], staged + i);
    if (static_cast<unsigned>(i - mine) < part) store(values[v], out + i);
  }
  sync_block();  // `staged` is complete, `sums` are free
}

__device__ inline void run_norm(const ProgramNorm& norm, bfloat16* staged, NormSums& sums,
                                const BlockWait& wait) {
  const bool is_shared = norm.everywhere != 0;
  const int begin = is_shared ? 0 : static_cast<int>(blockIdx.x);
  const int step = is_shared ? 1 : static_cast<int>(gridDim.x);
  if (begin >= norm.rows) return wait();
#pragma unroll 1
  for (int row = begin; row < norm.rows; row += step) {
    bfloat16* to = is_shared ? staged + row * (norm.width + kProgramXPad) : nullptr;
    norm_row(norm, row, to, sums, wait, row == begin);
  }
}

}  // namespace lorax::cuda
