// PEFT's ensure_weight_tying: what it makes of an adapter of a base whose embedding and head are
// one weight.
#pragma once

#include <span>
#include <string_view>

#include "adapters/peft/peft_config.h"
#include "nn/adapter_module.h"

namespace lorax {

enum class WeightTying {
  kNone,   // nothing: the base's are two weights, or the adapter changes neither
  kSaved,  // the head uses the embedding's weight of modules_to_save
  kLora,   // the head uses the embedding's LoRA, transposed
};

// Changes `config` as PEFT does: what it takes in of embedding and head becomes the embedding
// alone. `embedding` and `head` share a weight of the base. To be called only with
// ensure_weight_tying.
WeightTying tie_weights(PeftConfig& config, const AdapterModule& embedding,
                        const AdapterModule& head, std::string_view origin);

}  // namespace lorax
