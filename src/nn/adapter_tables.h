// The adapters that a device holds, by slot: what kernels look up (LoraTable) and what the host
// knows of each slot.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "device/device_memory.h"
#include "device/lora.h"
#include "device/tensor.h"
#include "nn/adapter_module.h"

namespace lorax {

// Blocks of a Medusa head at most.
inline constexpr int64_t kMaxMedusaLayers = 8;

// One Medusa head (Cai et al. 2024): blocks y = y + silu(W y + b), then an output matrix.
struct MedusaHead {
  struct Block {
    Tensor weight;  // [D, D]
    Tensor bias;    // [D]
  };
  std::vector<Block> blocks;
  Tensor output;  // [V, D]; empty: the base model's head and its soft-cap
};

// Rows of embedding or head that some tokens have of their own.
struct TokenRows {
  int64_t module = 0;
  Tensor tokens;  // [n] int32, ascending
  Tensor rows;    // [n, D]
};

// What one adapter changes. Views: the adapter owns the memory.
struct AdapterSlot {
  std::vector<LoraEntry> lora;                           // [modules]
  std::vector<std::pair<int64_t, Tensor>> replacements;  // modules whose weight is another
  std::vector<TokenRows> tokens;
  std::vector<MedusaHead> medusa;

  // The adapter's own weight of a module, or null.
  const Tensor* replacement(int64_t module) const {
    for (const auto& [index, weight] : replacements) {
      if (index == module) return &weight;
    }
    return nullptr;
  }
  // Of the tokens that have a row of the module of their own, or null.
  const TokenRows* tokens_of(int64_t module) const {
    const auto found = std::ranges::find(tokens, module, &TokenRows::module);
    return found == tokens.end() ? nullptr : &*found;
  }
};

// Slots may be set and cleared by other threads than the one that runs steps, as long as no step
// uses the slot meanwhile.
class AdapterTables {
 public:
  // `device` must outlive this.
  AdapterTables(DeviceMemory& device, int64_t modules, int64_t slots, DType dtype);

  int64_t modules() const { return modules_; }
  int64_t slots() const { return static_cast<int64_t>(slots_.size()); }
  DType dtype() const { return dtype_; }

  void set(int32_t slot, AdapterSlot content);
  void clear(int32_t slot);
  const AdapterSlot& slot(int32_t slot) const { return slots_[static_cast<size_t>(slot)]; }
  LoraTable device_table() const {
    return {static_cast<const LoraEntry*>(buffer_.data()), modules_, dtype_};
  }

 private:
  DeviceMemory& device_;
  int64_t modules_;
  DType dtype_;
  std::vector<AdapterSlot> slots_;
  Buffer buffer_;  // LoraEntry [slots, modules]
};

}  // namespace lorax
