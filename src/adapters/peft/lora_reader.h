// The LoRA half of an adapter: from its config and the names of its tensors to LoraWeights.
#pragma once

#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "adapters/peft/adapter.h"
#include "adapters/peft/base_model.h"
#include "adapters/peft/peft_tying.h"
#include "adapters/peft/tensor_plan.h"
#include "adapters/peft/token_reader.h"

namespace lorax {

class LoraReader {
 public:
  // `base` must outlive this.
  LoraReader(const BaseModel& base, std::string_view origin)
      : base_(base), origin_(origin), tokens_(base, origin_ + "/adapter_config.json") {}

  // Parses adapter_config.json, lays out adapter.lora, adapter.replaced and adapter.tokens and
  // claims their tensors. Throws Error. `adapter` must stay where it is until finish().
  void plan(std::string_view config_text, TensorPlan& tensors, Adapter& adapter);

  // After the tensors have been read: ties what ensure_weight_tying ties. PEFT saves embedding and
  // head beside their LoRA; such a copy is dropped where it makes no difference to the base's
  // weight, and stands in for it where it does.
  void finish(Adapter& adapter);

 private:
  void claim_lora(size_t module, TensorPlan& tensors, LoraWeights& weights, bool bias, bool dora);
  void plan_lora(PeftConfig& config, std::string_view origin, TensorPlan& tensors,
                 Adapter& adapter);
  void check_alora(const Adapter& adapter) const;
  WeightTying tie(PeftConfig& config, std::string_view origin);
  void check_vocabulary(const std::string& tensor, const AdapterModule& module,
                        const TensorPlan& tensors) const;
  void claim_saved(std::span<const size_t> saved, TensorPlan& tensors, Adapter& adapter);
  std::string copy_ending(size_t module, const Adapter& adapter) const;
  void claim_copies(TensorPlan& tensors, const Adapter& adapter);
  void finish_tying(Adapter& adapter) const;
  void finish_copy(size_t module, const HostTensor& copy, Adapter& adapter) const;

  const BaseModel& base_;
  std::string origin_;
  TokenReader tokens_;
  WeightTying tying_ = WeightTying::kNone;
  size_t embedding_ = 0, head_ = 0;  // what is tied; without tying_ nothing
  std::set<size_t> saved_;           // modules_to_save
  // By module: what is copied into the base's own weight, also where modules_to_save replaces it.
  std::map<size_t, HostTensor> copies_;
};

}  // namespace lorax
