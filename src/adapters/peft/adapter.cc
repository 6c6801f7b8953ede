#include "adapters/peft/adapter.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace lorax {
namespace {

// "3 x q_proj, lm_head": modules by the last part of their names.
template <typename Map>
std::string count_by_name(const Map& map, std::span<const AdapterModule> modules) {
  std::map<std::string, int> counts;
  for (const auto& [index, unused] : map) {
    const std::string& name = modules[index].name;
    ++counts[name.substr(name.rfind('.') + 1)];
  }
  std::vector<std::string> parts;
  for (const auto& [name, count] : counts) {
    parts.push_back(count == 1 ? name : fmt::format("{} x {}", count, name));
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace

std::string_view name_of(AdapterKind kind) {
  switch (kind) {
    case AdapterKind::kLora:
      return "lora";
    case AdapterKind::kMedusa:
      return "medusa";
    case AdapterKind::kMedusaLora:
      return "medusa_lora";
    case AdapterKind::kTrainableTokens:
      return "trainable_tokens";
  }
  return "";
}

uint64_t Adapter::bytes() const {
  std::map<const std::byte*, uint64_t> seen;
  const auto add = [&](const HostTensor& tensor) {
    if (tensor) seen[tensor.data.get()] = tensor.bytes();
  };
  for (const auto& [index, weights] : lora) {
    for (const HostTensor* tensor : {&weights.a, &weights.b, &weights.bias, &weights.magnitude}) {
      add(*tensor);
    }
  }
  for (const auto& [index, weight] : replaced) add(weight);
  for (const auto& [index, own] : tokens) add(own.rows);
  if (medusa) {
    for (const MedusaHeadWeights& head : medusa->heads) {
      add(head.output);
      for (const MedusaHeadWeights::Block& block : head.blocks) {
        add(block.weight);
        add(block.bias);
      }
    }
  }
  uint64_t total = 0;
  for (const auto& [data, bytes] : seen) total += bytes;
  return total;
}

std::set<int64_t> Adapter::ranks() const {
  std::set<int64_t> ranks;
  for (const auto& [index, weights] : lora) ranks.insert(weights.rank);
  return ranks;
}

std::string describe(const Adapter& adapter, std::span<const AdapterModule> modules) {
  std::string text = fmt::format("kind {}\ndigest {}\nbytes {}\n", name_of(adapter.kind),
                                 adapter.digest, adapter.bytes());
  if (!adapter.lora.empty()) {
    text += fmt::format("ranks {}\nmodules {}: {}\n", fmt::join(adapter.ranks(), ", "),
                        adapter.lora.size(), count_by_name(adapter.lora, modules));
    std::vector<std::string> variants;
    if (adapter.config && adapter.config->use_dora) variants.emplace_back("DoRA");
    if (adapter.config && adapter.config->lora_bias) variants.emplace_back("bias");
    if (adapter.config && adapter.config->use_rslora) variants.emplace_back("rsLoRA");
    if (!variants.empty()) text += fmt::format("variants {}\n", fmt::join(variants, ", "));
  }
  if (!adapter.replaced.empty()) {
    text += fmt::format("replaced {}: {}\n", adapter.replaced.size(),
                        count_by_name(adapter.replaced, modules));
  }
  for (const auto& [index, own] : adapter.tokens) {
    text += fmt::format("tokens {} of {}\n", own.ids.size(), modules[index].name);
  }
  if (adapter.config && !adapter.config->alora_invocation.empty()) {
    text += fmt::format("aLoRA, active from tokens {} on\n",
                        fmt::join(adapter.config->alora_invocation, ", "));
  }
  if (adapter.medusa) {
    text += fmt::format("medusa version {}, {} heads of {} blocks\n", adapter.medusa->version,
                        adapter.medusa->heads.size(), adapter.medusa->heads[0].blocks.size());
  }
  return text;
}

}  // namespace lorax
