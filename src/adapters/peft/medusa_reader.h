// Medusa heads: config.json and tensors "{head}.{block}.linear.weight".
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/peft/adapter.h"
#include "adapters/peft/tensor_plan.h"

namespace lorax {

struct MedusaConfig {
  int64_t heads = 0;
  int64_t blocks = 1;                   // of each head: medusa_num_layers
  std::string base_model_name_or_path;  // "" if the file does not say
  std::vector<std::string> warnings;
};

// Of config.json. hidden_size and vocab_size, where the file names them, must be those of the base.
// Throws Error that begins with `origin` and names the key. `ignored_keys` as in
// parse_peft_config().
MedusaConfig parse_medusa_config(std::string_view text, int64_t hidden_size, int64_t vocab_size,
                                 std::string_view origin,
                                 std::span<const std::string> ignored_keys = {});

// Lays out the heads and claims their tensors. Heads with outputs of their own ("0.1.weight" is
// there) or of several blocks are version 1, as in LoRAX; the config's `version` decides nothing.
// `medusa` must stay where it is until the plan is read. Throws Error.
void plan_medusa(const MedusaConfig& config, int64_t hidden_size, int64_t vocab_size,
                 TensorPlan& tensors, MedusaWeights& medusa);

}  // namespace lorax
