// Operations as values: what a graph keeps to be compiled into programs, and what a Launcher
// launches.
#pragma once

#include <cstdint>
#include <variant>

#include "device/cuda/ops/kernels.h"

namespace lorax::cuda {

// linear_gelu_tanh_mul; `gate_up` is its room.
struct GatedLinearArgs {
  LinearArgs linear;
  Rows gate_up;
};

// linear, then the low-rank parts of rows that have an adapter; then, if `gated` has data,
// gelu_tanh_mul of that into it.
struct LoraLinearArgs {
  LinearArgs linear;
  LoraArgs lora;
  int64_t n_rows = 0;  // of LoraArgs::rows
  Rows gated;
};

// out = gelu_tanh(first half of a row of gate_up) * second half.
struct GeluMulArgs {
  Rows gate_up;
  Rows out;
  int64_t rows = 0;
  int64_t width = 0;  // of out
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

using Operation = std::variant<LinearArgs, GatedLinearArgs, LoraLinearArgs, GeluMulArgs, NormArgs,
                               AddNormArgs, RotaryStoreArgs, AttentionArgs>;

}  // namespace lorax::cuda
