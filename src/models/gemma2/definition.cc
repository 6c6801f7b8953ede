#include "models/gemma2/definition.h"

#include <algorithm>

#include "models/gemma2/config.h"
#include "models/gemma2/flash_gemma2.h"

namespace lorax {
namespace {

ModelInfo fill_info(ModelInfo info, const Gemma2Config& config) {
  info.model_type = "gemma2";
  info.vocab_size = config.vocab_size;
  info.hidden_size = config.hidden_size;
  info.num_hidden_layers = config.num_hidden_layers;
  info.num_attention_heads = config.num_attention_heads;
  info.num_key_value_heads = config.num_key_value_heads;
  info.head_dim = config.head_dim;
  info.max_position_embeddings = config.max_position_embeddings;
  const int64_t q_size = config.num_attention_heads * config.head_dim;
  const int64_t kv_size = config.num_key_value_heads * config.head_dim;
  info.multiply_adds_per_token =
      config.hidden_size *
      (config.num_hidden_layers * (2 * q_size + 2 * kv_size + 3 * config.intermediate_size) +
       config.vocab_size);
  info.window = config.sliding_window;
  info.windowed_layers = std::ranges::count(config.layer_is_sliding, true);
  return info;
}

class Gemma2Definition final : public ModelDefinition {
 public:
  Gemma2Definition(ModelInfo info, Gemma2Config config)
      : ModelDefinition(fill_info(std::move(info), config)), config_(std::move(config)) {}

  std::unique_ptr<FlashCausalLM> build(WeightStore& store) const override {
    auto model = std::make_unique<FlashGemma2ForCausalLM>("", config_, store.root());
    store.finish();
    return model;
  }

  std::unique_ptr<ModelDefinition> untied() const override {
    Gemma2Config config = config_;
    config.tie_word_embeddings = false;
    return std::make_unique<Gemma2Definition>(info(), std::move(config));
  }

 private:
  Gemma2Config config_;
};

}  // namespace

std::unique_ptr<ModelDefinition> read_gemma2_definition(const boost::json::object& config,
                                                        std::string_view origin, ModelInfo info) {
  return std::make_unique<Gemma2Definition>(std::move(info), parse_gemma2_config(config, origin));
}

std::unique_ptr<ModelDefinition> preset_gemma2_definition(std::string_view name) {
  return std::make_unique<Gemma2Definition>(ModelInfo{}, gemma2_preset(name));
}

}  // namespace lorax
