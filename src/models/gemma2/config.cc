#include "models/gemma2/config.h"

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <cmath>
#include <limits>
#include <optional>

#include "base/error.h"

namespace lorax {
namespace {

namespace json = boost::json;

// Bounds that no real model comes near; they keep sizes computed from a config free of overflow.
constexpr int64_t kMaxDimension = int64_t{1} << 24;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeadDim = 256;

class Reader {
 public:
  Reader(const json::object& object, std::string_view origin) : object_(object), origin_(origin) {}

  // The value of a key, or null if it is absent or JSON's null.
  const json::value* find(std::string_view key) const {
    const json::value* value = object_.if_contains(key);
    return value == nullptr || value->is_null() ? nullptr : value;
  }

  int64_t integer(std::string_view key, int64_t max = kMaxDimension) const {
    const json::value& value = required(key);
    std::optional<int64_t> number;
    if (value.is_int64()) number = value.get_int64();
    if (!number || *number < 1 || *number > max) {
      fail("{}: {} is {}; it must be an integer from 1 to {}", origin_, key, json::serialize(value),
           max);
    }
    return *number;
  }

  float positive(std::string_view key) const { return positive(key, required(key)); }

  // A number above 0, or 0 for an explicit null. The key must be there.
  float positive_or_null(std::string_view key) const {
    const json::value* value = object_.if_contains(key);
    if (value == nullptr) missing(key);
    return value->is_null() ? 0.0f : positive(key, *value);
  }

  float positive(std::string_view key, const json::value& value) const {
    boost::system::error_code error;
    const double number = value.is_number() ? value.to_number<double>(error) : 0.0;
    if (!(number > 0.0) || number > 1e30 || number < 1e-30) {
      fail("{}: {} is {}; it must be a number above 0", origin_, key, json::serialize(value));
    }
    return static_cast<float>(number);
  }

  bool boolean(std::string_view key, bool otherwise) const {
    const json::value* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_bool()) {
      fail("{}: {} is {}; it must be true or false", origin_, key, json::serialize(*value));
    }
    return value->get_bool();
  }

  [[noreturn]] void missing(std::string_view key) const {
    fail("{}: {} is missing; take config.json from the original checkpoint", origin_, key);
  }

 private:
  const json::value& required(std::string_view key) const {
    const json::value* value = find(key);
    if (value == nullptr) missing(key);
    return *value;
  }

  const json::object& object_;
  std::string_view origin_;
};

// transformers before 5 writes rope_theta and rope_scaling; later ones rope_parameters.
float read_rope_theta(const Reader& reader, std::string_view origin) {
  const json::value* parameters = reader.find("rope_parameters");
  const json::value* scaling = reader.find("rope_scaling");
  for (const json::value* value : {parameters, scaling}) {
    if (value == nullptr) continue;
    const json::object* object = value->if_object();
    if (object == nullptr) fail("{}: rope_parameters must be an object", origin);
    const json::value* type = object->if_contains("rope_type");
    if (type == nullptr) type = object->if_contains("type");
    if (type != nullptr && *type != "default") {
      fail("{}: rope_type {} is not supported; Gemma 2 uses \"default\"", origin,
           json::serialize(*type));
    }
  }
  if (parameters != nullptr) {
    const json::value* theta = parameters->get_object().if_contains("rope_theta");
    if (theta != nullptr) return reader.positive("rope_parameters.rope_theta", *theta);
  }
  return reader.positive("rope_theta");
}

std::vector<bool> read_layer_types(const Reader& reader, int64_t layers, std::string_view origin) {
  std::vector<bool> sliding;
  const json::value* types = reader.find("layer_types");
  if (types == nullptr) {
    for (int64_t layer = 0; layer < layers; ++layer) sliding.push_back(layer % 2 == 0);
    return sliding;
  }
  const json::array* array = types->if_array();
  if (array == nullptr || static_cast<int64_t>(array->size()) != layers) {
    fail("{}: layer_types must list one type for each of the {} layers", origin, layers);
  }
  for (const json::value& type : *array) {
    if (type != "sliding_attention" && type != "full_attention") {
      fail("{}: layer type {} is unknown; known: \"sliding_attention\", \"full_attention\"", origin,
           json::serialize(type));
    }
    sliding.push_back(type == "sliding_attention");
  }
  return sliding;
}

void check_supported(const Reader& reader, std::string_view origin) {
  if (reader.boolean("attention_bias", false)) {
    fail("{}: attention_bias is true; only Gemma 2 models without biases are supported", origin);
  }
  if (reader.boolean("use_bidirectional_attention", false)) {
    fail("{}: use_bidirectional_attention is true; only causal models are supported", origin);
  }
  const json::value* activation = reader.find("hidden_activation");
  if (activation == nullptr) activation = reader.find("hidden_act");
  if (activation == nullptr) reader.missing("hidden_activation");
  if (*activation != "gelu_pytorch_tanh" && *activation != "gelu_new") {
    fail("{}: hidden_activation {} is not supported; Gemma 2 uses \"gelu_pytorch_tanh\"", origin,
         json::serialize(*activation));
  }
}

}  // namespace

Gemma2Config parse_gemma2_config(const json::object& object, std::string_view origin) {
  const Reader reader(object, origin);
  Gemma2Config config;
  config.vocab_size = reader.integer("vocab_size");
  config.hidden_size = reader.integer("hidden_size");
  config.intermediate_size = reader.integer("intermediate_size");
  config.num_hidden_layers = reader.integer("num_hidden_layers", kMaxLayers);
  config.num_attention_heads = reader.integer("num_attention_heads", 4096);
  config.num_key_value_heads = reader.integer("num_key_value_heads", 4096);
  config.head_dim = reader.integer("head_dim", kMaxHeadDim);
  config.max_position_embeddings = reader.integer("max_position_embeddings");
  config.sliding_window = reader.integer("sliding_window");
  config.query_pre_attn_scalar = reader.positive("query_pre_attn_scalar");
  config.attn_logit_softcapping = reader.positive_or_null("attn_logit_softcapping");
  config.final_logit_softcapping = reader.positive_or_null("final_logit_softcapping");
  config.rms_norm_eps = reader.positive("rms_norm_eps");
  config.rope_theta = read_rope_theta(reader, origin);
  config.tie_word_embeddings = reader.boolean("tie_word_embeddings", true);
  config.layer_is_sliding = read_layer_types(reader, config.num_hidden_layers, origin);
  check_supported(reader, origin);
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    fail("{}: num_attention_heads {} is not a multiple of num_key_value_heads {}", origin,
         config.num_attention_heads, config.num_key_value_heads);
  }
  if (config.head_dim % 8 != 0) {
    fail("{}: head_dim {} is not a multiple of 8", origin, config.head_dim);
  }
  return config;
}

Gemma2Config gemma2_preset(std::string_view name) {
  Gemma2Config config;
  config.vocab_size = 256000;
  config.max_position_embeddings = 8192;
  config.sliding_window = 4096;
  config.attn_logit_softcapping = 50.0f;
  config.final_logit_softcapping = 30.0f;
  config.rms_norm_eps = 1e-6f;
  config.rope_theta = 10000.0f;
  auto set = [&](int64_t hidden, int64_t intermediate, int64_t layers, int64_t heads,
                 int64_t kv_heads, int64_t head_dim, float query_scalar) {
    config.hidden_size = hidden;
    config.intermediate_size = intermediate;
    config.num_hidden_layers = layers;
    config.num_attention_heads = heads;
    config.num_key_value_heads = kv_heads;
    config.head_dim = head_dim;
    config.query_pre_attn_scalar = query_scalar;
  };
  if (name == "gemma2-2b") {
    set(2304, 9216, 26, 8, 4, 256, 256);
  } else if (name == "gemma2-9b") {
    set(3584, 14336, 42, 16, 8, 256, 256);
  } else if (name == "gemma2-27b") {
    set(4608, 36864, 46, 32, 16, 128, 144);
  } else {
    fail("shape {} is unknown; known: gemma2-2b, gemma2-9b, gemma2-27b, or a path to a config.json",
         name);
  }
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    config.layer_is_sliding.push_back(layer % 2 == 0);
  }
  return config;
}

}  // namespace lorax
