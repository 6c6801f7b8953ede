#include "adapters/peft/peft_tying.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "adapters/peft/python_regex.h"

namespace lorax {
namespace {

// PEFT's EMBEDDING_LAYER_NAMES.
constexpr std::string_view kNames[] = {"embed_tokens", "lm_head"};

bool is_name(std::string_view name) {
  return std::ranges::find(kNames, name.substr(name.rfind('.') + 1)) != std::end(kNames);
}

// Whether `name` selects the module by its whole name or by what follows a dot.
bool selects(std::string_view name, std::string_view module) {
  return module == name ||
         (module.ends_with(name) && module[module.size() - name.size() - 1] == '.');
}

// Puts the embedding in the head's place.
void replace_head(std::vector<std::string>& names, const AdapterModule& embedding,
                  const AdapterModule& head) {
  std::erase_if(names, [&](const std::string& name) { return selects(name, head.name); });
  if (std::ranges::find(names, embedding.name) == names.end()) names.push_back(embedding.name);
}

}  // namespace

WeightTying tie_weights(PeftConfig& config, const AdapterModule& embedding,
                        const AdapterModule& head, std::string_view origin) {
  if (std::ranges::any_of(config.modules_to_save, is_name)) {
    replace_head(config.modules_to_save, embedding, head);
    return WeightTying::kSaved;
  }
  if (!config.target_modules.regex) {
    if (!std::ranges::any_of(config.target_modules.names, is_name)) return WeightTying::kNone;
    replace_head(config.target_modules.names, embedding, head);
    return WeightTying::kLora;
  }
  const PythonRegex regex(*config.target_modules.regex, fmt::format("{}: target_modules", origin));
  if (std::ranges::none_of(kNames, [&](std::string_view name) { return regex.fullmatch(name); })) {
    return WeightTying::kNone;
  }
  // The head may match still, so it is taken out by name. Names hold no character that means
  // something else in a regular expression but the dot, which matches itself.
  config.target_modules.regex =
      fmt::format("(?!^{}$)(?:{}|^{}$)", head.name, *config.target_modules.regex, embedding.name);
  return WeightTying::kLora;
}

}  // namespace lorax
