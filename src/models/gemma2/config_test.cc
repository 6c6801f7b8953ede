#include "models/gemma2/config.h"

#include <algorithm>
#include <memory>
#include <utility>

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/error.h"
#include "models/gemma2/definition.h"

namespace lorax {
namespace {

namespace json = boost::json;

// The keys of google/gemma-2-2b as transformers 4.42 wrote them.
json::object old_config() {
  return json::parse(R"({
    "architectures": ["Gemma2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid",
    "eos_token_id": 1, "final_logit_softcapping": 30.0, "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304, "initializer_range": 0.02, "intermediate_size": 9216,
    "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 8,
    "num_hidden_layers": 26, "num_key_value_heads": 4, "pad_token_id": 0,
    "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
    "sliding_window": 4096, "torch_dtype": "float32", "use_cache": true,
    "vocab_size": 256000})")
      .get_object();
}

std::string error_of(const json::object& config) {
  try {
    parse_gemma2_config(config, "config.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Gemma2ConfigTest, ReadsTheOldKeys) {
  const Gemma2Config config = parse_gemma2_config(old_config(), "config.json");
  EXPECT_EQ(config.hidden_size, 2304);
  EXPECT_EQ(config.num_hidden_layers, 26);
  EXPECT_EQ(config.rope_theta, 10000.0f);
  EXPECT_EQ(config.attn_logit_softcapping, 50.0f);
  EXPECT_EQ(config.final_logit_softcapping, 30.0f);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_TRUE(config.layer_is_sliding[0]);
  EXPECT_FALSE(config.layer_is_sliding[1]);
}

TEST(Gemma2ConfigTest, ReadsTheNewKeys) {
  json::object object = old_config();
  object.erase("rope_theta");
  object.erase("hidden_act");
  object["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 5000.0}};
  object["num_hidden_layers"] = 3;
  object["layer_types"] = {"full_attention", "sliding_attention", "full_attention"};
  object["tie_word_embeddings"] = false;
  object["attn_logit_softcapping"] = nullptr;
  const Gemma2Config config = parse_gemma2_config(object, "config.json");
  EXPECT_EQ(config.rope_theta, 5000.0f);
  EXPECT_EQ(config.layer_is_sliding, (std::vector<bool>{false, true, false}));
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_EQ(config.attn_logit_softcapping, 0.0f);
}

TEST(Gemma2ConfigTest, EveryFieldThatChangesResultsIsRequired) {
  for (const char* key :
       {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings",
        "sliding_window", "query_pre_attn_scalar", "attn_logit_softcapping",
        "final_logit_softcapping", "rms_norm_eps", "rope_theta"}) {
    json::object object = old_config();
    object.erase(key);
    const std::string error = error_of(object);
    EXPECT_NE(error.find(key), std::string::npos) << key << ": " << error;
    EXPECT_NE(error.find("config.json"), std::string::npos) << error;
  }
}

TEST(Gemma2ConfigTest, RefusesWhatItDoesNotCompute) {
  const std::pair<const char*, json::value> cases[] = {
      {"attention_bias", true},
      {"use_bidirectional_attention", true},
      {"hidden_activation", "silu"},
      {"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}},
      {"rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 10000.0}}},
      {"rope_parameters", "default"},
      {"layer_types", {"sliding_attention"}},
      {"layer_types", "sliding_attention"},
      {"num_key_value_heads", 3},
      {"head_dim", 20},
      {"head_dim", 512},
      {"hidden_size", 0},
      {"hidden_size", -5},
      {"hidden_size", 1e99},
      {"hidden_size", "2304"},
      {"num_hidden_layers", 100000},
      {"rms_norm_eps", 0},
      {"rms_norm_eps", "1e-6"},
      {"final_logit_softcapping", -30},
      {"tie_word_embeddings", "yes"}};
  for (const auto& [key, value] : cases) {
    json::object object = old_config();
    object[key] = value;
    EXPECT_NE(error_of(object), "") << key << " = " << json::serialize(value);
  }
}

TEST(Gemma2ConfigTest, KnowsTheReleasedShapes) {
  const Gemma2Config config = gemma2_preset("gemma2-27b");
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(config.query_pre_attn_scalar, 144.0f);
  EXPECT_THROW(gemma2_preset("gemma2-3b"), Error);
}

TEST(Gemma2ConfigTest, CountsAttentionsKeys) {
  const std::unique_ptr<ModelDefinition> definition = preset_gemma2_definition("gemma2-9b");
  const ModelInfo& info = definition->info();
  for (const auto& [first, last] : {std::pair{0, 3}, {0, 8160}, {4090, 4100}, {8000, 8001}}) {
    double pairs = 0.0;
    for (int position = first; position < last; ++position) {
      pairs += 21.0 * (position + 1) + 21.0 * std::min(position + 1, 4096);
    }
    EXPECT_EQ(info.attention_multiply_adds(first, last), 2.0 * 16 * 256 * pairs);
  }
}

}  // namespace
}  // namespace lorax
