// How adapters reach the kernels: tables in device memory that say, for each adapter slot and each
// module of the model, where the low-rank factors lie. Kernels read pointers and ranks from there,
// so that adapters of any ranks come and go without a new launch plan.
#pragma once

#include <cstdint>
#include <span>

#include "device/lora_entry.h"
#include "device/tensor.h"

namespace lorax {

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

// Modules that share one input: q, k, v or gate, up.
using LoraTargets = std::span<const LoraTarget>;

}  // namespace lorax
