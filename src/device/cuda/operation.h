// Operations as values: what a graph keeps to be compiled into programs, and what a Launcher
// launches.
#pragma once

#include <cstdint>
#include <variant>

#include "device/cuda/kernels.h"

namespace lorax::cuda {

// linear_gelu_tanh_mul; `gate_up` is its room.
struct GatedLinearArgs {
  LinearArgs linear;
  Rows gate_up;
};

// out = norm(x).
struct NormArgs {
  Rows x;
  const float* weight = nullptr;
  int64_t rows = 0;
  int64_t width = 0;
  float eps = 0.0f;
  Rows out;
};

// residual (float32) += norm(x), out = norm(residual) with the next weight.
struct AddNormArgs {
  NormArgs norm;
  Rows residual;
  const float* next_weight = nullptr;
  float next_eps = 0.0f;
};

using Operation = std::variant<LinearArgs, GatedLinearArgs, NormArgs, AddNormArgs, RotaryStoreArgs,
                               AttentionArgs>;

}  // namespace lorax::cuda
