// Norms of a program.
#pragma once

#include "device/cuda/program_blocks.cuh"

namespace lorax::cuda {

struct NormSums {
  float of_x[kProgramWarps];
  float of_residual[kProgramWarps];
};

// 1 / sqrt(mean(row^2) + eps).
template <int kVectors>
__device__ float norm_factor(const float (&row)[kVectors][4], int width, float eps,
                             float (&warp_sums)[kProgramWarps]) {
  float sum = 0.0f;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
#pragma unroll
    for (float value : row[v]) sum += value * value;
  }
  return 1.0f / sqrtf(program_sum(sum, warp_sums) / static_cast<float>(width) + eps);
}

// One row, of which a thread has kVectors times four elements. If it is shared, each block writes a
// part of it and has all in `staged`. Weights are on their way before `wait` is called.
template <int kVectors, typename Wait>
__device__ void norm_row(const ProgramNorm& norm, int row, bool is_shared, bfloat16* staged,
                         NormSums& sums, const Wait& wait) {
  const auto place = [](int v) {
    return (v * kProgramThreads + static_cast<int>(threadIdx.x)) * 4;
  };
  const bool adds = norm.x != nullptr;
  float values[kVectors][4] = {};
  float total[kVectors][4] = {};
  float weights[kVectors][4];
  float next_weights[kVectors][4];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int i = place(v);
    if (i >= norm.width) break;
    if (adds) load(norm.weight + i, weights[v]);
    load(norm.next_weight + i, next_weights[v]);
  }
  wait();
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int i = place(v);
    if (i >= norm.width) break;
    load_fresh(norm.from + row * norm.from_stride + i, total[v]);
    if (adds) load_fresh(static_cast<const bfloat16*>(norm.x) + row * norm.x_stride + i, values[v]);
  }
  // Of four elements, whether this block writes them.
  const auto is_mine = [&](int i) {
    return !is_shared || static_cast<unsigned>(i / 4) % gridDim.x == blockIdx.x;
  };
  if (adds) {
    const float factor = norm_factor(values, norm.width, norm.eps, sums.of_x);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int i = place(v);
      if (i >= norm.width) break;
#pragma unroll
      for (int j = 0; j < 4; ++j) total[v][j] += values[v][j] * factor * weights[v][j];
      if (is_mine(i)) store(total[v], norm.to + row * norm.to_stride + i);
    }
  }
  const float factor = norm_factor(total, norm.width, norm.next_eps, sums.of_residual);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int i = place(v);
    if (i >= norm.width) break;
#pragma unroll
    for (int j = 0; j < 4; ++j) values[v][j] = total[v][j] * factor * next_weights[v][j];
    if (staged != nullptr) store(values[v], staged + i);
    if (is_mine(i)) {
      store(values[v], static_cast<bfloat16*>(norm.out) + row * norm.out_stride + i);
    }
  }
  sync_block();  // `staged` is complete, `sums` are free
}

template <int kVectors, typename Wait>
__device__ void norm_rows(const ProgramNorm& norm, bfloat16* staged, NormSums& sums,
                          const Wait& wait) {
  const bool is_shared = norm.everywhere != 0;
  if (!is_shared && static_cast<int>(blockIdx.x) >= norm.rows) return wait();
  const int begin = is_shared ? 0 : static_cast<int>(blockIdx.x);
  const int end = is_shared ? norm.rows : begin + 1;
#pragma unroll 1
  for (int row = begin; row < end; ++row) {
    bfloat16* to = is_shared ? staged + row * (norm.width + kProgramXPad) : nullptr;
    norm_row<kVectors>(norm, row, is_shared, to, sums, [&] {
      if (row == begin) wait();
    });
  }
}

template <typename Wait>
__device__ void run_norm(const ProgramNorm& norm, bfloat16* staged, NormSums& sums,
                         const Wait& wait) {
  // No more code than the width asks for: it runs once, and fetching it takes the time.
  constexpr int kElements = kProgramThreads * 4;
  if (norm.width <= 3 * kElements) {
    norm_rows<3>(norm, staged, sums, wait);
  } else if (norm.width <= 4 * kElements) {
    norm_rows<4>(norm, staged, sums, wait);
  } else {
    norm_rows<kProgramNormWidth / kElements>(norm, staged, sums, wait);
  }
}

}  // namespace lorax::cuda
