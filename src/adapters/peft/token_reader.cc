#include "adapters/peft/token_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>

#include "adapters/peft/peft_targets.h"
#include "base/error.h"
#include "formats/printable.h"

namespace lorax {
namespace {

using Kind = AdapterModule::Kind;

bool is_head(const AdapterModule& module) {
  return module.name == "lm_head" || module.name.ends_with(".lm_head");
}

int64_t vocabulary_of(const AdapterModule& module) {
  return module.kind == Kind::kEmbedding ? module.in : module.out;
}

int64_t width_of(const AdapterModule& module) {
  return module.kind == Kind::kEmbedding ? module.out : module.in;
}

// The rows in the ascending order of `ids`, which are brought into it, too.
HostTensor sorted_rows(std::vector<int32_t>& ids, const HostTensor& rows) {
  std::vector<size_t> order(ids.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, {}, [&](size_t i) { return ids[i]; });
  HostTensor sorted = HostTensor::allocate(rows.dtype, rows.shape);
  const size_t row_bytes = rows.bytes() / ids.size();
  for (size_t i = 0; i < order.size(); ++i) {
    std::memcpy(sorted.data.get() + i * row_bytes, rows.data.get() + order[i] * row_bytes,
                row_bytes);
  }
  std::ranges::sort(ids);
  return sorted;
}

}  // namespace

void TokenReader::plan(const PeftConfig& config, bool ties, TensorPlan& tensors, Adapter& adapter) {
  alone_ = config.trains_tokens_alone;
  std::map<size_t, Ids> targets = resolve(config);
  for (const auto& [module, ids] : targets) check_ids(module, ids);
  for (size_t i = 0; i < base_.modules.size(); ++i) {
    if (base_.modules[i].kind != Kind::kEmbedding || !targets.contains(i)) continue;
    const std::optional<size_t> head = base_.weights->tied_to(i);
    if (!head) continue;
    const auto own = targets.find(*head);
    if (own != targets.end() && own->second != targets.at(i)) {
      if (!ties) continue;  // each has its own, though the base's are one weight
      fail(
          "{}: trainable_token_indices has other tokens for {} than for {}, which "
          "ensure_weight_tying makes one; PEFT cannot load it either",
          origin_, base_.modules[*head].name, base_.modules[i].name);
    }
    targets.insert_or_assign(*head, targets.at(i));
    shared_[*head] = i;
  }
  for (const auto& [module, ids] : targets) {
    check_alone(module, config, adapter);
    TokenWeights& to = adapter.tokens[module];
    to.ids = ids;
    if (!shared_.contains(module)) {
      claim(module, ids, tensors, &to.rows);
    } else if (tensors.contains(tensor_of(module))) {
      claim(module, ids, tensors, &own_[module]);
    }
  }
}

std::map<size_t, TokenReader::Ids> TokenReader::resolve(const PeftConfig& config) const {
  std::map<size_t, Ids> targets;
  const auto add = [&](size_t index, const Ids& ids) {
    const AdapterModule& module = base_.modules[index];
    if (module.kind != Kind::kEmbedding && !is_head(module)) {
      fail("{}: tokens are trained of {}; only those of the embedding and the head can be served",
           origin_, module.name);
    }
    targets.insert_or_assign(index, ids);
  };
  if (config.trains_tokens_alone) {
    for (const TargetedModule& target : resolve_peft_targets(config, base_.modules, origin_).lora) {
      add(target.module, config.trainable_tokens.at(0).second);
    }
    return targets;
  }
  for (const auto& [name, ids] : config.trainable_tokens) {
    const size_t before = targets.size();
    for (size_t i = 0; i < base_.modules.size(); ++i) {
      if (base_.modules[i].name.ends_with(name)) add(i, ids);
    }
    if (targets.size() == before) {
      fail("{}: trainable_token_indices names {}, which the base model does not have", origin_,
           printable(name));
    }
  }
  return targets;
}

void TokenReader::check_ids(size_t module, const Ids& ids) const {
  const int64_t vocabulary = vocabulary_of(base_.modules[module]);
  Ids sorted = ids;
  std::ranges::sort(sorted);
  if (sorted.back() >= vocabulary) {
    fail(
        "{}: token {} is trained and the base model has {} rows in {}: the adapter's vocabulary "
        "grew, or it is for another base model",
        origin_, sorted.back(), vocabulary, base_.modules[module].name);
  }
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice != sorted.end()) {
    fail("{}: token {} is trained twice, and PEFT does not say which row counts; list it once",
         origin_, *twice);
  }
}

void TokenReader::check_alone(size_t module, const PeftConfig& config,
                              const Adapter& adapter) const {
  const std::string& name = base_.modules[module].name;
  if (adapter.replaced.contains(module)) {
    fail("{}: both modules_to_save and trainable_token_indices take in {}; PEFT cannot load it",
         origin_, name);
  }
  if (!adapter.lora.contains(module)) return;
  if (!shared_.contains(module)) {
    fail("{}: both target_modules and trainable_token_indices take in {}; PEFT cannot load it",
         origin_, name);
  }
  if (config.use_dora) {
    fail("{}: {} has DoRA and tokens of its own, which cannot be served", origin_, name);
  }
}

std::string TokenReader::tensor_of(size_t module) const {
  return fmt::format("base_model.model.{}.{}trainable_tokens_delta", base_.modules[module].name,
                     alone_ ? "" : "token_adapter.");
}

void TokenReader::claim(size_t module, const Ids& ids, TensorPlan& tensors, HostTensor* to) const {
  tensors.claim(tensor_of(module),
                {static_cast<int64_t>(ids.size()), width_of(base_.modules[module])},
                "trainable_token_indices", to);
}

void TokenReader::finish(Adapter& adapter) const {
  for (const auto& [head, own] : own_) {
    const size_t embedding = shared_.at(head);
    if (own.floats() == adapter.tokens.at(embedding).rows.floats()) continue;
    fail(
        "{}: the trained tokens of {} differ from those of {}, with which the base model shares "
        "them",
        origin_, base_.modules[head].name, base_.modules[embedding].name);
  }
  for (auto& [module, own] : adapter.tokens) {
    if (!shared_.contains(module)) own.rows = sorted_rows(own.ids, own.rows);
  }
  for (const auto& [head, embedding] : shared_) {
    adapter.tokens.at(head) = adapter.tokens.at(embedding);
  }
}

}  // namespace lorax
