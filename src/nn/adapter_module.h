// What of a model an adapter can change: its linear layers, its embedding and its norms, by the
// names that PEFT gives them.
#pragma once

#include <cstdint>
#include <string>

#include "device/tensor.h"

namespace lorax {

struct AdapterModule {
  enum class Kind {
    kLinear,     // weight [out, in]
    kEmbedding,  // weight [in, out]: in is the vocabulary
    kNorm,       // weight [out], float32 with Gemma's 1 added; in is 0
  };

  // "model.layers.3.self_attn.q_proj", "model.embed_tokens", "lm_head", "model.norm".
  std::string name;
  Kind kind = Kind::kLinear;
  int64_t in = 0;
  int64_t out = 0;
  Tensor weight;  // the base model's, on the device; a view
};

}  // namespace lorax
