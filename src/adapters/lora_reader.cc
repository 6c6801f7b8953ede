#include "adapters/lora_reader.h"

#include <boost/json/value.hpp>

#include <cstring>

#include "adapters/peft_targets.h"
#include "base/error.h"
#include "formats/json_file.h"
#include "formats/printable.h"

namespace lorax {
namespace {

using Kind = AdapterModule::Kind;

// PEFT wraps the model twice, and the model's own names begin after that.
std::string tensor_name(const AdapterModule& module, std::string_view ending) {
  return fmt::format("base_model.model.{}.{}", module.name, ending);
}

std::vector<int64_t> weight_shape(const AdapterModule& module) {
  if (module.kind == Kind::kNorm) return {module.out};
  if (module.kind == Kind::kEmbedding) return {module.in, module.out};
  return {module.out, module.in};
}

// PEFT's EMBEDDING_LAYER_NAMES: those it may save beside their adapters.
bool is_saved_beside(const AdapterModule& module) {
  const std::string_view name = std::string_view(module.name).substr(module.name.rfind('.') + 1);
  return name == "embed_tokens" || name == "lm_head";
}

bool same_bytes(const HostTensor& a, const HostTensor& b) {
  return a.dtype == b.dtype && a.shape == b.shape &&
         std::memcmp(a.data.get(), b.data.get(), a.bytes()) == 0;
}

}  // namespace

void LoraReader::plan(std::string_view config_text, TensorPlan& tensors, Adapter& adapter) {
  const std::string origin = origin_ + "/adapter_config.json";
  const boost::json::value value = parse_json(config_text, origin);
  if (!value.is_object()) fail("{}: must hold a JSON object", origin);
  PeftConfig config = parse_peft_config(value.get_object(), origin);
  PeftTargets targets = resolve_peft_targets(config, base_.modules, origin);
  adapter.warnings.insert(adapter.warnings.end(), config.warnings.begin(), config.warnings.end());
  adapter.warnings.insert(adapter.warnings.end(), targets.warnings.begin(), targets.warnings.end());
  if (!base_.name.empty() && !config.base_model_name_or_path.empty() &&
      config.base_model_name_or_path != base_.name) {
    adapter.warnings.push_back(
        fmt::format("{}: base_model_name_or_path is \"{}\" and \"{}\" is served; the shapes fit",
                    origin, printable(config.base_model_name_or_path), printable(base_.name)));
  }
  for (const TargetedModule& target : targets.lora) {
    LoraWeights& weights = adapter.lora[target.module];
    weights.rank = target.rank;
    weights.scale = target.scale;
    claim_lora(target.module, tensors, weights, config.lora_bias, config.use_dora);
  }
  for (size_t module : targets.saved) {
    tensors.claim(tensor_name(base_.modules[module], "weight"), weight_shape(base_.modules[module]),
                  "modules_to_save", &adapter.replaced[module]);
  }
  claim_copies(tensors, adapter);
  adapter.config = std::move(config);
}

void LoraReader::claim_lora(size_t index, TensorPlan& tensors, LoraWeights& weights, bool bias,
                            bool dora) {
  const AdapterModule& module = base_.modules[index];
  const std::string owner = fmt::format("LoRA of rank {} on {}", weights.rank, module.name);
  const bool is_embedding = module.kind == Kind::kEmbedding;
  tensors.claim(tensor_name(module, is_embedding ? "lora_embedding_A" : "lora_A.weight"),
                {weights.rank, module.in}, owner, &weights.a);
  tensors.claim(tensor_name(module, is_embedding ? "lora_embedding_B" : "lora_B.weight"),
                {module.out, weights.rank}, owner, &weights.b);
  if (bias) tensors.claim(tensor_name(module, "lora_B.bias"), {module.out}, owner, &weights.bias);
  if (!dora) return;
  // PEFT writes the short name and also reads the long one.
  const std::string name = tensor_name(module, "lora_magnitude_vector");
  const bool is_long = !tensors.contains(name) && tensors.contains(name + ".weight");
  tensors.claim(is_long ? name + ".weight" : name, {module.out}, owner, &weights.magnitude);
}

void LoraReader::claim_copies(TensorPlan& tensors, const Adapter& adapter) {
  for (size_t i = 0; i < base_.modules.size(); ++i) {
    const AdapterModule& module = base_.modules[i];
    if (!is_saved_beside(module) || adapter.replaced.contains(i)) continue;
    const std::string name =
        tensor_name(module, adapter.lora.contains(i) ? "base_layer.weight" : "weight");
    if (!tensors.contains(name)) continue;
    tensors.claim(name, weight_shape(module), "the copy of the base's weight", &copies_[i]);
  }
}

void LoraReader::finish(Adapter& adapter) {
  for (auto& [module, copy] : copies_) {
    if (base_.weights->equals(module, copy)) continue;
    const std::string& name = base_.modules[module].name;
    // PEFT copies it into the one weight that embedding and tied head share. A module that
    // modules_to_save replaces has a weight of its own.
    const std::optional<size_t> tied = base_.weights->tied_to(module);
    if (tied) {
      const auto other = copies_.find(*tied);
      if (other != copies_.end() && !same_bytes(copy, other->second)) {
        fail(
            "{}: has copies of the base's embedding and of its head that differ, and the base "
            "uses one weight for both; save the adapter without save_embedding_layers",
            origin_);
      }
      adapter.replaced.try_emplace(*tied, copy);
    }
    adapter.warnings.push_back(
        fmt::format("{}: its copy of {} differs from the base's weight and replaces it{}", origin_,
                    name, tied ? ", also where the base shares it" : ""));
    adapter.replaced.insert_or_assign(module, copy);
  }
}

}  // namespace lorax
