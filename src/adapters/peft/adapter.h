// An adapter in host memory: what its files say, checked against the model it is for.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "adapters/peft/host_tensor.h"
#include "adapters/peft/peft_config.h"
#include "nn/adapter_module.h"

namespace lorax {

enum class AdapterKind { kLora, kMedusa, kMedusaLora, kTrainableTokens };

// "lora", "medusa", "medusa_lora", "trainable_tokens".
std::string_view name_of(AdapterKind kind);

// y = base(x) + scale * B(A(x)), and what DoRA and lora_bias make of it. A linear layer [out, in]
// has A [r, in] and B [out, r]; the embedding [V, D] has A [r, V], whose column is picked by the
// token, and B [D, r].
struct LoraWeights {
  int64_t rank = 0;
  float scale = 0.0f;
  HostTensor a;
  HostTensor b;
  HostTensor bias;       // [out], of B: scaled with it. Null unless lora_bias
  HostTensor magnitude;  // [out] (of the embedding [D]): DoRA. Null unless use_dora
};

// Rows of embedding or head that some tokens have of their own, whatever the base's are (PEFT's
// TrainableTokens).
struct TokenWeights {
  std::vector<int32_t> ids;  // ascending, none twice
  HostTensor rows;           // [ids, D]
};

// One head: `blocks` of x + SiLU(W x + b), then `output`, or the base's head where that is null.
struct MedusaHeadWeights {
  struct Block {
    HostTensor weight;  // [D, D]
    HostTensor bias;    // [D]
  };
  std::vector<Block> blocks;
  HostTensor output;  // [V, D]; version 1 only
};

struct MedusaWeights {
  int version = 2;  // 1: heads have outputs of their own; 2: one block each, and the base's head
  std::vector<MedusaHeadWeights> heads;
};

// Immutable once read, so that threads can share it. Module indices are places in the list of
// AdapterModules that it was read against.
struct Adapter {
  AdapterKind kind = AdapterKind::kLora;
  // Of config and tensors, not of names and places: equal digests are equal adapters.
  std::string digest;
  std::map<size_t, LoraWeights> lora;
  // Weights that stand in for the base's, as a checkpoint has them (norms without Gemma's 1). A
  // module can have both; LoRA is then added to the weight from here.
  std::map<size_t, HostTensor> replaced;
  std::map<size_t, TokenWeights> tokens;  // beneath LoRA, too
  std::optional<MedusaWeights> medusa;
  std::optional<PeftConfig> config;  // of all kinds but kMedusa
  // What a user should know and what stopped nothing.
  std::vector<std::string> warnings;

  // Of all tensors; one that stands in two places is counted once.
  uint64_t bytes() const;
  std::set<int64_t> ranks() const;
};

// What `lorax verify-adapter` prints: kind, digest, bytes, modules with their ranks, and heads.
std::string describe(const Adapter& adapter, std::span<const AdapterModule> modules);

}  // namespace lorax
