// adapter_config.json: what PEFT's LoraConfig, or TrainableTokensConfig, says about an adapter,
// checked key by key.
//
// Fail closed: a key that can change what the adapter computes is either implemented here or must
// have the value at which it does nothing; so must every key that this program does not know.
// Written after PEFT 0.21; files of all versions since 0.1 read the same.
#pragma once

#include <boost/json/fwd.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lorax {

// Which modules a key like target_modules selects: those named, as a whole or by what follows a
// dot, or those whose whole name matches a regular expression (Python's).
struct ModuleSelection {
  std::vector<std::string> names;
  std::optional<std::string> regex;
};

struct PeftConfig {
  static constexpr int64_t kMaxRank = 512;

  int64_t r = 8;
  double lora_alpha = 8.0;
  bool use_rslora = false;
  bool use_dora = false;
  bool lora_bias = false;

  ModuleSelection target_modules;
  bool all_linear = false;  // target_modules is "all-linear": every linear layer but the head
  ModuleSelection exclude_modules;
  std::vector<std::string> modules_to_save;
  bool ensure_weight_tying = false;
  // Layers that target_modules is restricted to; none: all of them.
  std::vector<int64_t> layers_to_transform;
  // Regular expressions of what stands before a layer's number; none: anything.
  std::vector<std::string> layers_pattern;

  // Name or regular expression -> rank or alpha, in the file's order: the first that matches
  // counts.
  std::vector<std::pair<std::string, int64_t>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;

  // Module, by the end of its name, -> ids whose rows of it are the adapter's own.
  std::vector<std::pair<std::string, std::vector<int32_t>>> trainable_tokens;
  // peft_type is TRAINABLE_TOKENS: no LoRA; the tokens are those of the target_modules, and stand
  // in trainable_tokens without a name.
  bool trains_tokens_alone = false;
  // aLoRA: LoRA acts from the last place in the prompt on where these tokens stand; empty: always.
  std::vector<int32_t> alora_invocation;

  std::string base_model_name_or_path;  // "" if the file does not say
  // What a user should know and what stops nothing.
  std::vector<std::string> warnings;
};

// Throws Error that begins with `origin` and names the key. `ignored_keys`, where this program does
// not implement them, only give a warning.
PeftConfig parse_peft_config(const boost::json::object& object, std::string_view origin,
                             std::span<const std::string> ignored_keys = {});

}  // namespace lorax
