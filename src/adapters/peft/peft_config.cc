#include "adapters/peft/peft_config.h"

#include <algorithm>
#include <cctype>

#include "adapters/peft/config_reader.h"
#include "base/error.h"
#include "formats/printable.h"

namespace lorax {
namespace {

namespace json = boost::json;

constexpr size_t kMaxPatterns = 20'000;

// Keys that change nothing once an adapter is trained: notes, training settings, and options of
// features that other keys switch on (those must be off, see ConfigReader::check_rest).
constexpr std::string_view kWithoutEffect[] = {
    "auto_mapping",
    "inference_mode",
    "lora_dropout",
    // Of layers of Megatron, which the served model has none of.
    "megatron_config",
    "megatron_core",
    "peft_version",
    "revision",
    "runtime_config",
    "qalora_group_size",
    // Settings of an initialisation. Which one it was is init_lora_weights; PEFT ignores the rest.
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_ga_config",
    // How training keeps activations; nothing in a forward alone.
    "velora_config",
};

void check_kind(ConfigReader& reader) {
  const std::string type = reader.text("peft_type");
  if (type != "LORA" && type != "TRAINABLE_TOKENS") {
    fail("{}: peft_type is \"{}\"; only \"LORA\" and \"TRAINABLE_TOKENS\" adapters can be served",
         reader.origin(), printable(type));
  }
  const std::string task = reader.text("task_type");
  if (!task.empty() && task != "CAUSAL_LM") {
    fail(
        "{}: task_type is \"{}\"; only adapters of causal language models (\"CAUSAL_LM\") can be "
        "served",
        reader.origin(), printable(task));
  }
}

// Initialisations that take the adapter's first product out of the base weights leave an adapter
// that means nothing beside the original base. The others only choose where training began.
void check_initialisation(ConfigReader& reader) {
  const json::value* value = reader.find("init_lora_weights");
  if (value == nullptr || value->is_bool()) return;
  std::string name = reader.text("init_lora_weights");
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
  if (name == "gaussian" || name == "eva" || name == "orthogonal" || name == "mica") return;
  if (name.starts_with("pissa") || name.starts_with("corda") || name == "olora" ||
      name == "lora_ga") {
    fail(
        "{}: init_lora_weights is \"{}\", which changes the base weights; save the adapter with "
        "PEFT's path_initial_model_for_weight_conversion, which makes a plain LoRA of it",
        reader.origin(), printable(name));
  }
  if (name == "loftq") {
    fail(
        "{}: init_lora_weights is \"loftq\", which belongs to a quantised base model; such an "
        "adapter cannot be served",
        reader.origin());
  }
  reader.bad("init_lora_weights", "true, false, \"gaussian\", \"eva\", \"orthogonal\" or \"mica\"");
}

ModuleSelection read_selection(ConfigReader& reader, std::string_view key) {
  ModuleSelection selection;
  const json::value* value = reader.find(key);
  if (value == nullptr) return selection;
  if (value->is_string()) {
    selection.regex = std::string(value->get_string());
  } else {
    selection.names = reader.texts(key);
  }
  return selection;
}

void read_targets(ConfigReader& reader, PeftConfig& config) {
  if (reader.find("target_modules") == nullptr) {
    config.target_modules.names = {"q_proj", "v_proj"};  // PEFT's choice for Gemma 2
    return;
  }
  config.target_modules = read_selection(reader, "target_modules");
  if (!config.target_modules.regex) return;
  std::string lower = *config.target_modules.regex;
  std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return std::tolower(c); });
  if (lower != "all-linear") return;
  config.all_linear = true;
  config.target_modules.regex.reset();
}

void read_layers(ConfigReader& reader, PeftConfig& config) {
  const json::value* layers = reader.find("layers_to_transform");
  const bool given = layers != nullptr;
  if (given) {
    json::array one;
    if (!layers->is_array()) one.push_back(*layers);
    for (const json::value& item : layers->is_array() ? layers->get_array() : one) {
      int64_t layer = 0;
      if (!read_integer(item, 0, INT32_MAX, layer)) {
        reader.bad("layers_to_transform", "a layer's number or a list of them");
      }
      config.layers_to_transform.push_back(layer);
    }
  }
  config.layers_pattern = reader.texts("layers_pattern");
  if (config.layers_pattern == std::vector<std::string>{""}) config.layers_pattern.clear();
  if (!config.layers_pattern.empty() && !given) {
    fail("{}: layers_pattern has no effect without layers_to_transform; give both or neither",
         reader.origin());
  }
  const bool one_text = config.target_modules.regex || config.all_linear;
  if (one_text && (given || reader.find("layers_pattern") != nullptr)) {
    fail(
        "{}: layers_to_transform and layers_pattern need a target_modules that is a list; a "
        "regular expression can name the layers itself",
        reader.origin());
  }
}

template <typename Number, typename Read>
std::vector<std::pair<std::string, Number>> read_patterns(ConfigReader& reader,
                                                          std::string_view key,
                                                          std::string_view must, Read read) {
  std::vector<std::pair<std::string, Number>> patterns;
  const json::value* value = reader.find(key);
  if (value == nullptr) return patterns;
  if (!value->is_object()) reader.bad(key, must);
  if (value->get_object().size() > kMaxPatterns) {
    fail("{}: {} has {} entries; at most {} are read", reader.origin(), key,
         value->get_object().size(), kMaxPatterns);
  }
  for (const json::key_value_pair& item : value->get_object()) {
    Number number{};
    if (!read(item.value(), number)) reader.bad(key, must);
    patterns.emplace_back(item.key(), number);
  }
  return patterns;
}

void read_ranks(ConfigReader& reader, PeftConfig& config) {
  config.r = reader.integer("r", 1, PeftConfig::kMaxRank, config.r);
  config.lora_alpha = reader.number("lora_alpha", config.lora_alpha);
  config.use_rslora = reader.boolean("use_rslora", false);
  config.rank_pattern =
      read_patterns<int64_t>(reader, "rank_pattern", "an object of names and ranks from 1 to 512",
                             [](const json::value& value, int64_t& to) {
                               return read_integer(value, 1, PeftConfig::kMaxRank, to);
                             });
  config.alpha_pattern = read_patterns<double>(
      reader, "alpha_pattern", "an object of names and numbers",
      [](const json::value& value, double& to) { return read_number(value, to); });
}

void read_variants(ConfigReader& reader, PeftConfig& config) {
  config.use_dora = reader.boolean("use_dora", false);
  config.lora_bias = reader.boolean("lora_bias", false);
  if (config.use_dora && config.lora_bias) {
    fail("{}: lora_bias cannot be combined with use_dora, in PEFT neither", reader.origin());
  }
  const std::string bias = reader.text("bias");
  // Which biases of the base were trained: Gemma 2 has none.
  if (!bias.empty() && bias != "none" && bias != "all" && bias != "lora_only") {
    reader.bad("bias", "\"none\", \"all\" or \"lora_only\"");
  }
  if (reader.boolean("fan_in_fan_out", false)) {
    // It is for GPT-2's Conv1D; PEFT turns it off for the nn.Linear of all other models.
    config.warnings.push_back(fmt::format(
        "{}: fan_in_fan_out is true; it means nothing for this model's layers, and PEFT "
        "ignores it too",
        reader.origin()));
  }
}

// `value` is that of `key`, or of a name in it.
std::vector<int32_t> read_tokens(ConfigReader& reader, std::string_view key,
                                 const json::value& value) {
  constexpr std::string_view kMust = "a list of token ids";
  if (!value.is_array() || value.get_array().empty()) reader.bad(key, kMust);
  std::vector<int32_t> ids;
  for (const json::value& item : value.get_array()) {
    int64_t id = 0;
    if (!read_integer(item, 0, INT32_MAX, id)) reader.bad(key, kMust);
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

void read_trainable_tokens(ConfigReader& reader, PeftConfig& config) {
  constexpr std::string_view kKey = "trainable_token_indices";
  const json::value* value = reader.find(kKey);
  if (value == nullptr) return;
  if (!value->is_object()) {
    config.trainable_tokens.emplace_back("embed_tokens", read_tokens(reader, kKey, *value));
    return;
  }
  for (const json::key_value_pair& item : value->get_object()) {
    if (item.key().empty()) reader.bad(kKey, "an object of modules' names");
    config.trainable_tokens.emplace_back(item.key(), read_tokens(reader, kKey, item.value()));
  }
}

// aLoRA with what acts on all tokens would need a second kind of "base" before its invocation.
void read_invocation(ConfigReader& reader, PeftConfig& config) {
  constexpr std::string_view kKey = "alora_invocation_tokens";
  const json::value* value = reader.find(kKey);
  if (value == nullptr || (value->is_array() && value->get_array().empty())) return;
  config.alora_invocation = read_tokens(reader, kKey, *value);
  const auto refuse = [&](std::string_view other) {
    fail("{}: {} cannot be combined with {}", reader.origin(), kKey, other);
  };
  if (config.use_dora) refuse("use_dora, in PEFT neither");
  if (!config.modules_to_save.empty()) refuse("modules_to_save here");
  if (!config.trainable_tokens.empty()) refuse("trainable_token_indices here");
}

PeftConfig parse_trainable_tokens(ConfigReader& reader, std::span<const std::string> ignored_keys) {
  PeftConfig config;
  config.trains_tokens_alone = true;
  config.target_modules = read_selection(reader, "target_modules");
  if (reader.find("target_modules") == nullptr) config.target_modules.names = {"embed_tokens"};
  const json::value* tokens = reader.find("token_indices");
  if (tokens == nullptr) reader.bad("token_indices", "a list of token ids");
  config.trainable_tokens.emplace_back("", read_tokens(reader, "token_indices", *tokens));
  config.base_model_name_or_path = reader.text("base_model_name_or_path");
  for (std::string_view key : {"auto_mapping", "inference_mode", "init_weights", "peft_version",
                               "revision", "runtime_config"}) {
    reader.find(key);
  }
  reader.check_rest(ignored_keys, config.warnings);
  return config;
}

}  // namespace

PeftConfig parse_peft_config(const json::object& object, std::string_view origin,
                             std::span<const std::string> ignored_keys) {
  ConfigReader reader(object, origin);
  PeftConfig config;
  check_kind(reader);
  if (reader.text("peft_type") == "TRAINABLE_TOKENS") {
    return parse_trainable_tokens(reader, ignored_keys);
  }
  check_initialisation(reader);
  read_ranks(reader, config);
  read_variants(reader, config);
  read_targets(reader, config);
  config.exclude_modules = read_selection(reader, "exclude_modules");
  if (config.exclude_modules.regex && config.exclude_modules.regex->empty()) {
    config.exclude_modules.regex.reset();
  }
  read_layers(reader, config);
  const json::value* saved = reader.find("modules_to_save");
  if (saved != nullptr && !saved->is_array()) reader.bad("modules_to_save", "a list of texts");
  config.modules_to_save = reader.texts("modules_to_save");
  if (std::ranges::find(config.modules_to_save, "") != config.modules_to_save.end()) {
    reader.bad("modules_to_save", "a list of names");
  }
  config.ensure_weight_tying = reader.boolean("ensure_weight_tying", false);
  read_trainable_tokens(reader, config);
  read_invocation(reader, config);
  config.base_model_name_or_path = reader.text("base_model_name_or_path");
  for (std::string_view key : kWithoutEffect) reader.find(key);
  reader.check_rest(ignored_keys, config.warnings);
  return config;
}

}  // namespace lorax
