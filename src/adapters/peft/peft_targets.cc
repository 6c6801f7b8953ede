#include "adapters/peft/peft_targets.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <functional>
#include <optional>
#include <set>
#include <unordered_set>

#include "adapters/peft/python_regex.h"
#include "base/error.h"
#include "formats/printable.h"

namespace lorax {
namespace {

// A config of thousands of patterns that each take many steps must not hold up the loader.
class Deadline {
 public:
  explicit Deadline(std::string_view origin) : origin_(origin) {}
  void check() const {
    if (std::chrono::steady_clock::now() < end_) return;
    fail("{}: its patterns take too long to match; write fewer or simpler ones", origin_);
  }

 private:
  std::string_view origin_;
  std::chrono::steady_clock::time_point end_ =
      std::chrono::steady_clock::now() + std::chrono::seconds(5);
};

// The names of a list: a name is selected as a whole, or by an ending after a dot.
class NameSet {
 public:
  explicit NameSet(const std::vector<std::string>& names) : names_(names.begin(), names.end()) {}

  bool contains(std::string_view name) const { return names_.contains(std::string(name)); }
  bool contains_ending(std::string_view name) const {
    for (size_t dot = name.find('.'); dot != std::string_view::npos;
         dot = name.find('.', dot + 1)) {
      if (contains(name.substr(dot + 1))) return true;
    }
    return false;
  }

 private:
  std::unordered_set<std::string> names_;
};

template <typename Number>
class Patterns {
 public:
  Patterns(const std::vector<std::pair<std::string, Number>>& patterns, std::string_view key,
           std::string_view origin) {
    for (const auto& [pattern, number] : patterns) {
      entries_.push_back(
          {pattern,
           PythonRegex(fmt::format("(.*\\.)?({})$", pattern), fmt::format("{}: {}", origin, key)),
           number});
    }
  }

  // The number of the first pattern that matches.
  Number find(std::string_view name, Number otherwise, const Deadline& deadline) {
    for (Entry& entry : entries_) {
      deadline.check();
      if (!entry.regex.match(name)) continue;
      entry.used = true;
      return entry.number;
    }
    return otherwise;
  }

  // Patterns that were first for no module. PEFT warns of those that match none.
  std::vector<std::string> unused() const {
    std::vector<std::string> unused;
    for (const Entry& entry : entries_) {
      if (!entry.used) unused.push_back(entry.pattern);
    }
    return unused;
  }

 private:
  struct Entry {
    std::string pattern;
    PythonRegex regex;
    Number number;
    bool used = false;
  };
  std::vector<Entry> entries_;
};

class Selector {
 public:
  Selector(const PeftConfig& config, std::string_view origin)
      : config_(config),
        deadline_(origin),
        targets_(config.target_modules.names),
        excluded_(config.exclude_modules.names),
        layers_(config.layers_to_transform.begin(), config.layers_to_transform.end()) {
    if (config.target_modules.regex) {
      target_regex_.emplace(*config.target_modules.regex,
                            fmt::format("{}: target_modules", origin));
    }
    if (config.exclude_modules.regex) {
      exclude_regex_.emplace(*config.exclude_modules.regex,
                             fmt::format("{}: exclude_modules", origin));
    }
    for (const std::string& name : config.modules_to_save) {
      saved_.emplace_back(fmt::format("(^|.*\\.){}($|\\..*)", name),
                          fmt::format("{}: modules_to_save", origin));
    }
    if (layers_.empty()) return;
    for (const std::string& pattern : config.layers_pattern) {
      layer_regexes_.emplace_back(fmt::format("(?:^|.*?\\.){}\\.(?P<idx>\\d+)\\.", pattern),
                                  fmt::format("{}: layers_pattern", origin));
    }
    if (layer_regexes_.empty()) {
      layer_regexes_.emplace_back(".*?\\.[^.]*\\.(?P<idx>\\d+)\\.", origin);
    }
  }

  const Deadline& deadline() const { return deadline_; }

  // Whether the module of that name gets LoRA. `is_linear`: a linear layer that is not the head.
  bool selects(std::string_view name, bool is_linear) const {
    deadline_.check();
    if (excludes(name)) return false;
    if (target_regex_) return target_regex_->fullmatch(name);
    if (config_.all_linear) return is_linear;
    if (targets_.contains(name)) return true;  // a whole name is not asked for its layer
    return targets_.contains_ending(name) && (layers_.empty() || in_layers(name));
  }

  // modules_to_save takes in names by their ending, without a dot before it.
  bool saves(std::string_view name) const {
    return std::ranges::any_of(config_.modules_to_save,
                               [&](const std::string& end) { return name.ends_with(end); });
  }

 private:
  bool excludes(std::string_view name) const {
    if (exclude_regex_ && exclude_regex_->fullmatch(name)) return true;
    if (excluded_.contains(name) || excluded_.contains_ending(name)) return true;
    return std::ranges::any_of(saved_, [&](const PythonRegex& regex) {
      deadline_.check();
      return regex.match(name);
    });
  }

  // The first pattern that matches tells the layer.
  bool in_layers(std::string_view name) const {
    for (const PythonRegex& regex : layer_regexes_) {
      deadline_.check();
      if (!regex.match(name)) continue;
      const std::optional<std::string> digits = regex.match_group(name, "idx");
      int64_t layer = -1;
      if (digits) std::from_chars(digits->data(), digits->data() + digits->size(), layer);
      return digits && layers_.contains(layer);
    }
    return false;
  }

  const PeftConfig& config_;
  Deadline deadline_;
  NameSet targets_;
  NameSet excluded_;
  std::set<int64_t> layers_;
  std::optional<PythonRegex> target_regex_;
  std::optional<PythonRegex> exclude_regex_;
  std::vector<PythonRegex> saved_;
  std::vector<PythonRegex> layer_regexes_;
};

// "model", "model.layers", "model.layers.0", ...: what holds the modules.
std::set<std::string> containers_of(std::span<const AdapterModule> modules) {
  std::set<std::string> containers;
  for (const AdapterModule& module : modules) {
    for (size_t dot = module.name.rfind('.'); dot != std::string::npos && dot > 0;
         dot = module.name.rfind('.', dot - 1)) {
      containers.insert(module.name.substr(0, dot));
    }
  }
  return containers;
}

bool is_head(const AdapterModule& module) {
  return module.name == "lm_head" || module.name.ends_with(".lm_head");
}

class Resolver {
 public:
  Resolver(const PeftConfig& config, std::span<const AdapterModule> modules,
           std::string_view origin, std::optional<size_t> tied_head)
      : config_(config),
        modules_(modules),
        origin_(origin),
        tied_head_(tied_head),
        selector_(config, origin),
        ranks_(config.rank_pattern, "rank_pattern", origin),
        alphas_(config.alpha_pattern, "alpha_pattern", origin) {}

  PeftTargets resolve() {
    for (size_t i = 0; i < modules_.size(); ++i) add_lora(i);
    const std::set<std::string> containers = containers_of(modules_);
    for (const std::string& name : containers) {
      if (selector_.selects(name, false)) refuse(name);
    }
    if (result_.lora.empty()) {
      fail(
          "{}: no module of the base model is targeted; check target_modules, exclude_modules, "
          "modules_to_save and layers_to_transform",
          origin_);
    }
    for (size_t i = 0; i < modules_.size(); ++i) add_saved(i);
    warn_of_unused("rank_pattern", ranks_.unused());
    warn_of_unused("alpha_pattern", alphas_.unused());
    return std::move(result_);
  }

 private:
  [[noreturn]] void refuse(std::string_view name) const {
    fail("{}: target_modules selects {}, which is neither a linear layer nor the embedding",
         origin_, name);
  }

  void add_lora(size_t index) {
    const AdapterModule& module = modules_[index];
    const bool is_linear = module.kind == AdapterModule::Kind::kLinear && !is_head(module);
    if (index != tied_head_ && !selector_.selects(module.name, is_linear)) return;
    if (module.kind == AdapterModule::Kind::kNorm) refuse(module.name);
    if (module.kind == AdapterModule::Kind::kEmbedding && config_.lora_bias) {
      fail("{}: lora_bias is true and target_modules selects {}; embeddings cannot have one",
           origin_, module.name);
    }
    const int64_t rank = ranks_.find(module.name, config_.r, selector_.deadline());
    const double alpha = alphas_.find(module.name, config_.lora_alpha, selector_.deadline());
    const auto divisor = static_cast<double>(rank);
    const double scale = alpha / (config_.use_rslora ? std::sqrt(divisor) : divisor);
    if (!std::isfinite(static_cast<float>(scale))) {
      fail("{}: the alpha of {} is {}, which is too large", origin_, module.name, alpha);
    }
    result_.lora.push_back({index, rank, static_cast<float>(scale)});
  }

  // A module is saved with whatever holds it: {"mlp"} saves three linear layers in each layer.
  void add_saved(size_t index) {
    const std::string& name = modules_[index].name;
    bool saved = false;
    for (size_t end = name.size(); end != std::string::npos && !saved;
         end = end == 0 ? std::string::npos : name.rfind('.', end - 1)) {
      saved = selector_.saves(std::string_view(name).substr(0, end));
    }
    if (!saved) return;
    if (std::ranges::any_of(result_.lora,
                            [&](const TargetedModule& t) { return t.module == index; })) {
      fail("{}: {} is taken in by both target_modules and modules_to_save", origin_, name);
    }
    result_.saved.push_back(index);
  }

  void warn_of_unused(std::string_view key, const std::vector<std::string>& unused) {
    for (const std::string& pattern : unused) {
      result_.warnings.push_back(fmt::format("{}: {}: \"{}\" decides for no targeted module",
                                             origin_, key, printable(pattern)));
      if (result_.warnings.size() >= 10) return;
    }
  }

  const PeftConfig& config_;
  std::span<const AdapterModule> modules_;
  std::string_view origin_;
  std::optional<size_t> tied_head_;
  Selector selector_;
  Patterns<int64_t> ranks_;
  Patterns<double> alphas_;
  PeftTargets result_;
};

}  // namespace

PeftTargets resolve_peft_targets(const PeftConfig& config, std::span<const AdapterModule> modules,
                                 std::string_view origin, std::optional<size_t> tied_head) {
  return Resolver(config, modules, origin, tied_head).resolve();
}

}  // namespace lorax
