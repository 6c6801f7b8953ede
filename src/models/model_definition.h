// A model as its config.json describes it, before any weight is read. models/registry makes it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/causal_lm.h"

namespace lorax {

// What the floors above may know of a model.
struct ModelInfo {
  std::string model_type;
  std::optional<DType> checkpoint_dtype;  // "dtype" or "torch_dtype" of the config
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 0;
  // Multiply-adds of the weight products for one token, head included: FLOPs are twice that.
  int64_t multiply_adds_per_token = 0;
  // So many of the layers let a token see itself and at most `window` - 1 before it, the others
  // all.
  int64_t windowed_layers = 0;
  int64_t window = 0;
  std::vector<int32_t> eos_token_ids;  // of config.json and generation_config.json

  // Of attention in all layers, for the tokens at positions [first, last) of a sequence: with every
  // key that they see, and its value.
  double attention_multiply_adds(int64_t first, int64_t last) const;
};

class ModelDefinition {
 public:
  explicit ModelDefinition(ModelInfo info) : info_(std::move(info)) {}
  virtual ~ModelDefinition() = default;

  const ModelInfo& info() const { return info_; }
  // Loads (or, in WeightStore::Mode::kCheck, checks) every weight. The store must outlive the
  // model. Throws Error for missing tensors, wrong shapes and tensors left over.
  virtual std::unique_ptr<FlashCausalLM> build(WeightStore& store) const = 0;

  // The same model with a head of its own, if this one shares the embedding table.
  virtual std::unique_ptr<ModelDefinition> untied() const = 0;

 private:
  ModelInfo info_;
};

}  // namespace lorax
