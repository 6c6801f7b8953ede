// How adapters reach the kernels: tables in device memory that say, for each adapter slot and each
// module of the model, where the low-rank factors lie. Kernels read pointers and ranks from there,
// so that adapters of any ranks come and go without a new launch plan.
#pragma once

#include <cstdint>
#include <span>

#include "device/tensor.h"

namespace lorax {

// Columns of a panel of B: what a kernel reads of it at a time lies in a row.
inline constexpr int64_t kLoraPanel = 64;

// What one adapter does to the output y [m] of one module with input x [n]:
//   y = gain * (y + scale * B (A x) + bias)
// (Hu et al. 2021, eq. 3; gain: Liu et al. 2024, "DoRA", eq. 5, as PEFT applies it.)
struct LoraEntry {
  // A [rank, n] in the model dtype. Of an embedding its transpose [V, rank]: a row per token.
  const void* a = nullptr;
  // B's transpose in panels, [ceil(m / kLoraPanel), rank, kLoraPanel] in the model dtype; the
  // columns beyond m are zero.
  const void* b = nullptr;
  const float* bias = nullptr;  // [m], already times scale; null: none
  const float* gain = nullptr;  // [m]: DoRA's magnitude / norm; null: 1
  int32_t rank = 0;             // 0: the adapter leaves the module alone
  float scale = 1.0f;
};

// Panels of a B with m rows.
constexpr int64_t lora_panels(int64_t m) { return (m + kLoraPanel - 1) / kLoraPanel; }

// The entries of all slots, in device memory.
struct LoraTable {
  const LoraEntry* entries = nullptr;  // [slots, modules]
  int64_t modules = 0;
  DType dtype = DType::kFloat32;  // of every A and B: the model dtype
};

// The rows of a step that have an adapter, those of one adapter together.
struct LoraRows {
  Tensor rows;      // [R] int32: rows of x and out, each at most once
  Tensor segments;  // [S+1] int32: segment s is rows[segments[s]] to rows[segments[s+1] - 1]
  Tensor slots;     // [S] int32: its adapter's slot
  LoraTable table;
};

// One module whose output is columns [column, column + columns) of the product's output.
struct LoraTarget {
  int64_t module = 0;
  int64_t column = 0;
  int64_t columns = 0;
};

// Modules that share one input: q, k, v or gate, up.
using LoraTargets = std::span<const LoraTarget>;

}  // namespace lorax
