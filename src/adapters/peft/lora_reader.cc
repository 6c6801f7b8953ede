#include "adapters/peft/lora_reader.h"

#include <boost/json/value.hpp>

#include <cstring>

#include "adapters/peft/peft_targets.h"
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

HostTensor transposed(const HostTensor& tensor) {
  const int64_t rows = tensor.shape[0], columns = tensor.shape[1];
  HostTensor result = HostTensor::allocate(tensor.dtype, {columns, rows});
  const size_t size = size_of(tensor.dtype);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      std::memcpy(result.data.get() + static_cast<size_t>(column * rows + row) * size,
                  tensor.data.get() + static_cast<size_t>(row * columns + column) * size, size);
    }
  }
  return result;
}

}  // namespace

void LoraReader::plan(std::string_view config_text, TensorPlan& tensors, Adapter& adapter) {
  const std::string origin = origin_ + "/adapter_config.json";
  const boost::json::value value = parse_python_json(config_text, origin);
  if (!value.is_object()) fail("{}: must hold a JSON object", origin);
  PeftConfig config = parse_peft_config(value.get_object(), origin, base_.ignored_config_keys);
  const bool ties = config.ensure_weight_tying;
  adapter.warnings.insert(adapter.warnings.end(), config.warnings.begin(), config.warnings.end());
  if (!base_.name.empty() && !config.base_model_name_or_path.empty() &&
      config.base_model_name_or_path != base_.name) {
    adapter.warnings.push_back(
        fmt::format("{}: base_model_name_or_path is \"{}\" and \"{}\" is served; the shapes fit",
                    origin, printable(config.base_model_name_or_path), printable(base_.name)));
  }
  if (config.trains_tokens_alone) {
    if (adapter.kind == AdapterKind::kMedusaLora) {
      fail("{}: peft_type \"TRAINABLE_TOKENS\" cannot be combined with Medusa heads", origin);
    }
    adapter.kind = AdapterKind::kTrainableTokens;
  } else {
    plan_lora(config, origin, tensors, adapter);
  }
  if (!config.trainable_tokens.empty()) tokens_.plan(config, ties, tensors, adapter);
  claim_copies(tensors, adapter);
  if (!config.alora_invocation.empty()) check_alora(adapter);
  adapter.config = std::move(config);
}

void LoraReader::plan_lora(PeftConfig& config, std::string_view origin, TensorPlan& tensors,
                           Adapter& adapter) {
  tying_ = tie(config, origin);
  const PeftTargets targets =
      resolve_peft_targets(config, base_.modules, origin,
                           tying_ == WeightTying::kLora ? std::optional(head_) : std::nullopt);
  adapter.warnings.insert(adapter.warnings.end(), targets.warnings.begin(), targets.warnings.end());
  for (const TargetedModule& target : targets.lora) {
    LoraWeights& weights = adapter.lora[target.module];
    weights.rank = target.rank;
    weights.scale = target.scale;
    if (tying_ == WeightTying::kLora && target.module == head_) {
      weights.rank = adapter.lora.at(embedding_).rank;  // whose factors these are
    }
    claim_lora(target.module, tensors, weights, config.lora_bias, config.use_dora);
  }
  claim_saved(targets.saved, tensors, adapter);
}

// What acts on every token makes another base of what stands before the invocation.
void LoraReader::check_alora(const Adapter& adapter) const {
  for (const auto& [index, weights] : adapter.lora) {
    if (base_.modules[index].kind != Kind::kEmbedding) continue;
    fail("{}: alora_invocation_tokens is set and target_modules selects {}; PEFT cannot load it",
         origin_, base_.modules[index].name);
  }
  if (adapter.kind == AdapterKind::kMedusaLora) {
    fail("{}: alora_invocation_tokens cannot be combined with Medusa heads", origin_);
  }
}

// Finds the modules that share one weight and applies ensure_weight_tying to the config.
WeightTying LoraReader::tie(PeftConfig& config, std::string_view origin) {
  if (!config.ensure_weight_tying) return WeightTying::kNone;
  config.ensure_weight_tying = false;  // unless it has an effect
  for (size_t i = 0; i < base_.modules.size(); ++i) {
    const std::optional<size_t> other = base_.weights->tied_to(i);
    if (base_.modules[i].kind != Kind::kEmbedding || !other) continue;
    embedding_ = i;
    head_ = *other;
    const WeightTying tying = tie_weights(config, base_.modules[i], base_.modules[head_], origin);
    config.ensure_weight_tying = tying != WeightTying::kNone;
    return tying;
  }
  return WeightTying::kNone;
}

void LoraReader::check_vocabulary(const std::string& tensor, const AdapterModule& module,
                                  const TensorPlan& tensors) const {
  const std::vector<int64_t>* shape = tensors.shape_of(tensor);
  const std::vector<int64_t> base = weight_shape(module);
  if (!is_saved_beside(module) || shape == nullptr || shape->size() != 2 ||
      (*shape)[1] != base[1] || (*shape)[0] <= base[0]) {
    return;
  }
  fail(
      "{}: tensor {} has {} rows and the base model's vocabulary {}: the adapter's vocabulary "
      "grew, "
      "and such adapters cannot be served; train tokens that the base has and does not use "
      "(trainable_token_indices)",
      origin_, tensor, (*shape)[0], base[0]);
}

void LoraReader::claim_saved(std::span<const size_t> saved, TensorPlan& tensors, Adapter& adapter) {
  saved_.insert(saved.begin(), saved.end());
  if (tying_ == WeightTying::kSaved) saved_.insert(head_);
  for (size_t module : saved_) {
    const AdapterModule& target = base_.modules[module];
    HostTensor& to = adapter.replaced[module];
    const std::string name = tensor_name(target, "weight");
    const bool is_tied = tying_ == WeightTying::kSaved && module == head_;
    if (is_tied && !tensors.contains(name)) continue;
    check_vocabulary(name, target, tensors);
    tensors.claim(name, weight_shape(target), "modules_to_save", &to);
  }
}

void LoraReader::claim_lora(size_t index, TensorPlan& tensors, LoraWeights& weights, bool bias,
                            bool dora) {
  const AdapterModule& module = base_.modules[index];
  const std::string owner = fmt::format("LoRA of rank {} on {}", weights.rank, module.name);
  const bool is_embedding = module.kind == Kind::kEmbedding;
  // Saved with LoRA by VeLoRA, for training.
  tensors.skip(tensor_name(module, "lora_velora_embed"));
  const bool is_tied = tying_ == WeightTying::kLora && index == head_;
  if (is_tied && !tensors.contains(tensor_name(module, "lora_A.weight"))) return;
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

// Where PEFT's layers put the module's own weight.
std::string LoraReader::copy_ending(size_t module, const Adapter& adapter) const {
  if (saved_.contains(module)) return "original_module.weight";
  std::string ending = adapter.lora.contains(module) ? "base_layer." : "";
  if (adapter.tokens.contains(module)) {
    ending +=
        adapter.kind == AdapterKind::kTrainableTokens ? "base_layer." : "token_adapter.base_layer.";
  }
  return ending + "weight";
}

void LoraReader::claim_copies(TensorPlan& tensors, const Adapter& adapter) {
  for (size_t i = 0; i < base_.modules.size(); ++i) {
    const AdapterModule& module = base_.modules[i];
    if (!is_saved_beside(module)) continue;
    // save_embedding_layers beside modules_to_save writes the module's own weight a second time,
    // under a name that PEFT does not read.
    if (saved_.contains(i)) tensors.skip(tensor_name(module, "modules_to_save.weight"));
    const std::string name = tensor_name(module, copy_ending(i, adapter));
    if (!tensors.contains(name)) continue;
    check_vocabulary(name, module, tensors);
    tensors.claim(name, weight_shape(module), "the copy of the base's weight", &copies_[i]);
  }
}

void LoraReader::finish_tying(Adapter& adapter) const {
  if (tying_ == WeightTying::kSaved) {
    // One weight, into which PEFT copies the embedding's tensor and then the head's.
    HostTensor& embedding = adapter.replaced.at(embedding_);
    HostTensor& head = adapter.replaced.at(head_);
    if (!head) head = embedding;
    embedding = head;
  }
  if (tying_ != WeightTying::kLora) return;
  const LoraWeights& embedding = adapter.lora.at(embedding_);
  LoraWeights& head = adapter.lora.at(head_);
  if (head.a) return;
  head.a = transposed(embedding.b);
  head.b = transposed(embedding.a);
}

void LoraReader::finish(Adapter& adapter) {
  finish_tying(adapter);
  tokens_.finish(adapter);
  for (const auto& [module, copy] : copies_) {
    // PEFT copies into the one weight that embedding and tied head share, the head's last.
    const std::optional<size_t> tied = base_.weights->tied_to(module);
    if (tied && *tied > module && copies_.contains(*tied)) continue;
    if (base_.weights->equals(module, copy)) continue;
    if (!adapter.config->alora_invocation.empty()) {
      fail(
          "{}: its copy of {} differs from the base's weight; an aLoRA (alora_invocation_tokens) "
          "needs the base before its invocation: save it without the copy",
          origin_, base_.modules[module].name);
    }
    finish_copy(module, copy, adapter);
  }
}

// The copy stands in for the base's weight, but for modules that have a weight of their own.
void LoraReader::finish_copy(size_t module, const HostTensor& copy, Adapter& adapter) const {
  const std::optional<size_t> tied = base_.weights->tied_to(module);
  if (!saved_.contains(module)) adapter.replaced.insert_or_assign(module, copy);
  if (tied && !saved_.contains(*tied)) adapter.replaced.insert_or_assign(*tied, copy);
  adapter.warnings.push_back(
      fmt::format("{}: its copy of {} differs from the base's weight and replaces it{}", origin_,
                  base_.modules[module].name, tied ? ", also where the base shares it" : ""));
}

}  // namespace lorax
