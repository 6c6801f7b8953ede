// Gemma 2's config.json. Field names are Hugging Face's (transformers, configuration_gemma2.py).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <boost/json/object.hpp>

#include "nn/kv_cache.h"

namespace lorax {

struct Gemma2Config {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 0;
  int64_t sliding_window = 0;
  float query_pre_attn_scalar = 0;   // scores are scaled by its power -1/2
  float attn_logit_softcapping = 0;  // 0: no cap
  float final_logit_softcapping = 0;
  float rms_norm_eps = 0;
  float rope_theta = 0;
  bool tie_word_embeddings = true;
  std::vector<bool> layer_is_sliding;  // [num_hidden_layers]; from layer_types, else the even ones

  KvShape kv_shape(DType dtype) const {
    return {num_hidden_layers, num_key_value_heads, head_dim, dtype};
  }
};

// Reads old keys (rope_theta, hidden_act) and new ones (rope_parameters, hidden_activation,
// layer_types). `origin` names the file in errors. Throws Error for a missing field that changes
// results, a value out of range, or a feature that Gemma 2 checkpoints may ask for and this
// program does not compute (attention_bias, scaled rotary embeddings, other activations).
Gemma2Config parse_gemma2_config(const boost::json::object& json, std::string_view origin);

// The released shapes: "gemma2-2b", "gemma2-9b", "gemma2-27b". Throws Error for other names.
Gemma2Config gemma2_preset(std::string_view name);

}  // namespace lorax
