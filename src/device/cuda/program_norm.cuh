// Norms of a program.
#pragma once

#include "device/cuda/program_blocks.cuh"
#include "device/cuda/vector.cuh"

namespace lorax::cuda {

constexpr int kNormVectors = 5;  // of four elements, of a thread

struct NormSums {
  float of_x[kProgramWarps];
  float of_residual[kProgramWarps];
};

// Four elements past the L1 cache: other blocks may have written them.
__device__ inline void load_fresh(const float* from, float (&to)[4]) {
  const float4 value = __ldcg(reinterpret_cast<const float4*>(from));
  to[0] = value.x;
  to[1] = value.y;
  to[2] = value.z;
  to[3] = value.w;
}

__device__ inline void load_fresh(const bfloat16* from, float (&to)[4]) {
  const uint2 packed = __ldcg(reinterpret_cast<const uint2*>(from));
  to[0] = __uint_as_float(packed.x << 16);
  to[1] = __uint_as_float(packed.x & 0xffff0000u);
  to[2] = __uint_as_float(packed.y << 16);
  to[3] = __uint_as_float(packed.y & 0xffff0000u);
}

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

// One row; what is not `mine` of it goes to `staged` alone, if that is not null.
__device__ inline void norm_row(const ProgramNorm& norm, int row, bool is_shared, bfloat16* staged,
                                NormSums& sums) {
  const auto place = [](int v) {
    return (v * kProgramThreads + static_cast<int>(threadIdx.x)) * 4;
  };
  const bool adds = norm.x != nullptr;
  float values[kNormVectors][4] = {};
  float total[kNormVectors][4] = {};
  float weights[kNormVectors][4];
  float next_weights[kNormVectors][4];
#pragma unroll
  for (int v = 0; v < kNormVectors; ++v) {
    const int i = place(v);
    if (i >= norm.width) break;
    load_fresh(norm.from + row * norm.from_stride + i, total[v]);
    if (adds) {
      load_fresh(static_cast<const bfloat16*>(norm.x) + row * norm.x_stride + i, values[v]);
      load(norm.weight + i, weights[v]);
    }
    load(norm.next_weight + i, next_weights[v]);
  }
  // Of four elements, whether this block writes them.
  const auto is_mine = [&](int i) {
    return !is_shared || static_cast<unsigned>(i / 4) % gridDim.x == blockIdx.x;
  };
  if (adds) {
    const float factor = norm_factor(values, norm.width, norm.eps, sums.of_x);
#pragma unroll
    for (int v = 0; v < kNormVectors; ++v) {
      const int i = place(v);
      if (i >= norm.width) break;
#pragma unroll
      for (int j = 0; j < 4; ++j) total[v][j] += values[v][j] * factor * weights[v][j];
      if (is_mine(i)) store(total[v], norm.to + row * norm.to_stride + i);
    }
  }
  const float factor = norm_factor(total, norm.width, norm.next_eps, sums.of_residual);
#pragma unroll
  for (int v = 0; v < kNormVectors; ++v) {
    const int i = place(v);
    if (i >= norm.width) break;
#pragma unroll
    for (int j = 0; j < 4; ++j) values[v][j] = total[v][j] * factor * next_weights[v][j];
    if (staged != nullptr) store(values[v], staged + i);
    if (is_mine(i)) {
      store(values[v], static_cast<bfloat16*>(norm.out) + row * norm.out_stride + i);
    }
  }
  __syncthreads();  // `staged` is complete, `sums` are free
}

__device__ inline void run_norm(const ProgramNorm& norm, bfloat16* staged, NormSums& sums) {
  if (norm.everywhere != 0) {
    for (int row = 0; row < norm.rows; ++row) {
      norm_row(norm, row, true, staged + row * (norm.width + kProgramXPad), sums);
    }
  } else if (static_cast<int>(blockIdx.x) < norm.rows) {
    norm_row(norm, static_cast<int>(blockIdx.x), false, nullptr, sums);
  }
}

}  // namespace lorax::cuda
