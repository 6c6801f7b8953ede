// What kernels read of an adapter's low-rank factors; plain data, for every compiler.
#pragma once

#include <cstdint>

namespace lorax {

// Columns of a panel of B: what a kernel reads of it at a time lies in a row.
inline constexpr int64_t kLoraPanel = 64;

// What one adapter does to the output y [m] of one module with input x [n]:
//   y = gain * (y + scale * B (A x) + bias)
// (Hu et al. 2021, eq. 3; gain: Liu et al. 2024, "DoRA", eq. 5, as PEFT applies it.)
// Ranks are at most 512; what is pointed to is aligned to 16 bytes.
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

// One module whose output is columns [column, column + columns) of the product's output.
struct LoraTarget {
  int64_t module = 0;
  int64_t column = 0;
  int64_t columns = 0;
};

}  // namespace lorax
