#include "adapters/merge/merge.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <charconv>
#include <cmath>
#include <utility>

#include "adapters/peft/peft_targets.h"
#include "base/error.h"
#include "formats/printable.h"
#include "formats/sha256.h"

namespace lorax {
namespace {

constexpr std::string_view kOrigin = "merged_adapters";

constexpr std::array<std::pair<std::string_view, MergeStrategy>, 4> kStrategies = {{
    {"linear", MergeStrategy::kLinear},
    {"ties", MergeStrategy::kTies},
    {"dare_linear", MergeStrategy::kDareLinear},
    {"dare_ties", MergeStrategy::kDareTies},
}};

std::string lower_case(std::string_view text) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return std::tolower(c); });
  return lower;
}

// One adapter is only weighted, whatever the strategy, as in PEFT.
MergeStrategy effective_strategy(const MergeParameters& parameters, size_t adapters) {
  return adapters == 1 ? MergeStrategy::kLinear : parameters.strategy;
}

void check_member(const MergeMember& member) {
  const Adapter& adapter = *member.adapter;
  const auto refuse = [&](std::string_view reason) {
    fail("{}: {} cannot be merged: it {}", kOrigin, printable(member.name), reason);
  };
  if (adapter.kind == AdapterKind::kTrainableTokens) refuse("is no LoRA but TRAINABLE_TOKENS");
  if (adapter.kind != AdapterKind::kLora) refuse("has Medusa heads");
  if (!adapter.tokens.empty()) refuse("has tokens of its own (trainable_token_indices)");
  if (!adapter.config->alora_invocation.empty()) refuse("is an aLoRA (alora_invocation_tokens)");
  if (adapter.config->use_dora) refuse("uses DoRA");
  if (adapter.config->lora_bias) refuse("has biases (lora_bias)");
  if (adapter.config->ensure_weight_tying) refuse("ties embedding and head (ensure_weight_tying)");
  if (!adapter.replaced.empty()) refuse("replaces weights of the base (modules_to_save)");
}

// Of an adapter as a whole, for PEFT's rule that all must be equal.
int64_t largest_rank(const PeftConfig& config) {
  int64_t rank = config.r;
  for (const auto& [pattern, value] : config.rank_pattern) rank = std::max(rank, value);
  return rank;
}

int64_t common_rank(std::span<const MergeMember> members) {
  const int64_t rank = largest_rank(*members[0].adapter->config);
  for (const MergeMember& member : members) {
    const int64_t other = largest_rank(*member.adapter->config);
    if (other != rank) {
      fail("{}: {} has rank {} and {} has rank {}; only adapters of equal rank can be merged",
           kOrigin, printable(members[0].name), rank, printable(member.name), other);
    }
  }
  return rank;
}

bool is_regex(const PeftConfig& config) { return config.target_modules.regex.has_value(); }

// The list that PEFT has by then also for "all-linear".
std::vector<std::string> target_names(const PeftConfig& config,
                                      std::span<const AdapterModule> modules) {
  if (!config.all_linear) return config.target_modules.names;
  std::vector<std::string> names;
  for (const AdapterModule& module : modules) {
    if (module.kind == AdapterModule::Kind::kLinear && !module.name.ends_with("lm_head")) {
      names.push_back(module.name);
    }
  }
  return names;
}

// The first member's config, with the target modules of all and one rank.
PeftConfig merged_config(std::span<const MergeMember> members,
                         std::span<const AdapterModule> modules) {
  PeftConfig merged = *members[0].adapter->config;
  merged.r = common_rank(members);
  merged.lora_alpha = static_cast<double>(merged.r);
  merged.rank_pattern.clear();
  merged.alpha_pattern.clear();
  merged.warnings.clear();
  merged.all_linear = false;
  merged.target_modules = {};
  std::string regex;
  for (const MergeMember& member : members) {
    const PeftConfig& config = *member.adapter->config;
    if (is_regex(config) != is_regex(*members[0].adapter->config)) {
      fail(
          "{}: target_modules is a list in some of the adapters and a regular expression in "
          "others; such adapters cannot be merged",
          kOrigin);
    }
    if (is_regex(config)) {
      regex += fmt::format("{}({})", regex.empty() ? "" : "|", *config.target_modules.regex);
    } else {
      const std::vector<std::string> names = target_names(config, modules);
      merged.target_modules.names.insert(merged.target_modules.names.end(), names.begin(),
                                         names.end());
    }
  }
  if (!regex.empty()) merged.target_modules.regex = regex;
  return merged;
}

uint64_t leading_bits(std::string_view digest) {
  uint64_t bits = 0;
  std::from_chars(digest.data(), digest.data() + 16, bits, 16);
  return bits;
}

class Merger {
 public:
  Merger(const MergeParameters& parameters, std::span<const MergeMember> members,
         std::string_view digest)
      : parameters_(parameters),
        strategy_(effective_strategy(parameters, members.size())),
        members_(members),
        seed_(leading_bits(digest)) {}

  // The merged weights of one module that the merged config targets.
  LoraWeights merge(const TargetedModule& target, const AdapterModule& module) {
    std::vector<float> weights_a, weights_b;
    std::vector<const LoraWeights*> parts;
    for (size_t i = 0; i < members_.size(); ++i) {
      const auto found = members_[i].adapter->lora.find(target.module);
      if (found == members_[i].adapter->lora.end()) continue;
      const double weight = parameters_.weights[i] * static_cast<double>(found->second.scale);
      const double root = std::sqrt(std::abs(weight));
      weights_a.push_back(static_cast<float>(weight >= 0.0 ? root : -root));
      weights_b.push_back(static_cast<float>(root));
      parts.push_back(&found->second);
    }
    if (parts.empty()) {
      fail(
          "{}: the adapters' target_modules together select {}, which none of them changes; PEFT "
          "cannot merge such adapters either",
          kOrigin, module.name);
    }
    for (const LoraWeights* part : parts) {
      if (part->rank == parts[0]->rank) continue;
      fail(
          "{}: {} has rank {} in one adapter and rank {} in another; only modules of equal rank "
          "can be merged",
          kOrigin, module.name, parts[0]->rank, part->rank);
    }
    LoraWeights merged;
    merged.rank = parts[0]->rank;
    merged.scale = target.scale;
    merged.a = merge_tensors(parts, &LoraWeights::a, weights_a, 2 * target.module);
    merged.b = merge_tensors(parts, &LoraWeights::b, weights_b, 2 * target.module + 1);
    return merged;
  }

 private:
  HostTensor merge_tensors(std::span<const LoraWeights* const> parts,
                           HostTensor LoraWeights::*member, std::span<const float> weights,
                           uint64_t stream) const {
    std::vector<std::vector<float>> tensors;
    for (const LoraWeights* part : parts) {
      tensors.push_back((part->*member).floats());
      if (strategy_ == MergeStrategy::kTies)
        prune_by_magnitude(tensors.back(), parameters_.density);
      if (strategy_ == MergeStrategy::kDareLinear || strategy_ == MergeStrategy::kDareTies) {
        const uint64_t place = stream * members_.size() + tensors.size();
        prune_at_random(tensors.back(), parameters_.density, seed_ ^ (place << 20));
      }
    }
    const bool by_sign = strategy_ == MergeStrategy::kTies || strategy_ == MergeStrategy::kDareTies;
    HostTensor merged = HostTensor::from_floats(
        by_sign ? merge_by_sign(tensors, weights, parameters_.majority_sign_method)
                : weighted_sum(tensors, weights),
        (parts[0]->*member).shape);
    if (!merged.all_finite()) fail("{}: the weights are so large that they overflow", kOrigin);
    return merged;
  }

  const MergeParameters& parameters_;
  MergeStrategy strategy_;
  std::span<const MergeMember> members_;
  uint64_t seed_;
};

// Modules that a member changes and the merged config leaves out. PEFT drops them in silence.
void warn_of_dropped(std::span<const MergeMember> members, std::span<const AdapterModule> modules,
                     Adapter& merged) {
  for (const MergeMember& member : members) {
    for (const auto& [index, weights] : member.adapter->lora) {
      if (merged.lora.contains(index)) continue;
      merged.warnings.push_back(fmt::format(
          "{}: {} changes {}, which the settings of {} (exclude_modules, layers_to_transform) "
          "leave out of the merge",
          kOrigin, printable(member.name), modules[index].name, printable(members[0].name)));
      break;
    }
  }
}

}  // namespace

MergeStrategy parse_merge_strategy(std::string_view name) {
  for (const auto& [known, strategy] : kStrategies) {
    if (lower_case(name) == known) return strategy;
  }
  fail("merge_strategy \"{}\" is unknown; known: linear, ties, dare_linear, dare_ties",
       printable(name));
}

MajoritySign parse_majority_sign_method(std::string_view name) {
  if (lower_case(name) == "total") return MajoritySign::kTotal;
  if (lower_case(name) == "frequency") return MajoritySign::kFrequency;
  fail("majority_sign_method \"{}\" is unknown; known: total, frequency", printable(name));
}

std::string_view name_of(MergeStrategy strategy) {
  const auto found =
      std::ranges::find(kStrategies, strategy, [](const auto& s) { return s.second; });
  return found->first;
}

std::string_view name_of(MajoritySign method) {
  return method == MajoritySign::kTotal ? "total" : "frequency";
}

void check_merge_parameters(const MergeParameters& parameters, size_t adapters) {
  if (adapters == 0) fail("{}: ids is empty; name at least one adapter", kOrigin);
  if (parameters.weights.size() != adapters) {
    fail("{}: there are {} weights for {} adapters; give one for each", kOrigin,
         parameters.weights.size(), adapters);
  }
  for (double weight : parameters.weights) {
    if (!std::isfinite(weight) || std::abs(weight) > 1e6) {
      fail("{}: weight {} is not a number from -1000000 to 1000000", kOrigin, weight);
    }
  }
  const bool prunes = parameters.strategy != MergeStrategy::kLinear;
  if (prunes && !(parameters.density > 0.0 && parameters.density <= 1.0)) {
    fail("{}: density is {}; strategies other than linear need one above 0 and up to 1", kOrigin,
         parameters.density);
  }
}

std::string merged_digest(const MergeParameters& parameters,
                          std::span<const std::string> member_digests) {
  const MergeStrategy strategy = effective_strategy(parameters, member_digests.size());
  const bool prunes = strategy != MergeStrategy::kLinear;
  const bool votes = strategy == MergeStrategy::kTies || strategy == MergeStrategy::kDareTies;
  Sha256 digest;
  digest.add_text("lorax merged adapter 1");
  digest.add_number(static_cast<uint64_t>(strategy));
  digest.add_number(prunes ? std::bit_cast<uint64_t>(parameters.density) : 0);
  digest.add_number(votes ? static_cast<uint64_t>(parameters.majority_sign_method) : 0);
  digest.add_number(member_digests.size());
  for (size_t i = 0; i < member_digests.size(); ++i) {
    digest.add_text(member_digests[i]);
    // 0.0 is added so that both zeros count as one.
    digest.add_number(std::bit_cast<uint64_t>(parameters.weights[i] + 0.0));
  }
  return digest.hex();
}

Adapter merge_adapters(const MergeParameters& parameters, std::span<const MergeMember> members,
                       std::span<const AdapterModule> modules) {
  check_merge_parameters(parameters, members.size());
  std::vector<std::string> digests;
  for (const MergeMember& member : members) {
    check_member(member);
    digests.push_back(member.adapter->digest);
  }
  Adapter merged;
  merged.digest = merged_digest(parameters, digests);
  merged.config = merged_config(members, modules);
  const PeftTargets targets = resolve_peft_targets(*merged.config, modules, kOrigin);
  Merger merger(parameters, members, merged.digest);
  for (const TargetedModule& target : targets.lora) {
    merged.lora.emplace(target.module, merger.merge(target, modules[target.module]));
  }
  warn_of_dropped(members, modules, merged);
  return merged;
}

}  // namespace lorax
