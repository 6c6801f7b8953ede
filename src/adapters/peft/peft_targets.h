// Which modules of the served model an adapter changes, and how strongly: PEFT's rules.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/peft/peft_config.h"
#include "nn/adapter_module.h"

namespace lorax {

struct TargetedModule {
  size_t module = 0;  // index in the model's modules
  int64_t rank = 0;
  float scale = 0.0f;  // alpha / rank, or alpha / sqrt(rank) with rsLoRA
};

struct PeftTargets {
  std::vector<TargetedModule> lora;  // in the order of the modules; never empty
  std::vector<size_t> saved;         // modules that modules_to_save replaces as a whole
  std::vector<std::string> warnings;
};

// Throws Error that begins with `origin` for: patterns that are none, or take too long; selections
// that take in no module, or something that LoRA cannot change (a norm, a layer as a whole);
// modules that are both saved and adapted. `tied_head`: a module that gets LoRA whether it is
// selected or not (WeightTying::kLora).
PeftTargets resolve_peft_targets(const PeftConfig& config, std::span<const AdapterModule> modules,
                                 std::string_view origin,
                                 std::optional<size_t> tied_head = std::nullopt);

}  // namespace lorax
