// The LoRA half of an adapter: from its config and the names of its tensors to LoraWeights.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "adapters/adapter.h"
#include "adapters/base_model.h"
#include "adapters/tensor_plan.h"

namespace lorax {

class LoraReader {
 public:
  // `base` must outlive this.
  LoraReader(const BaseModel& base, std::string_view origin) : base_(base), origin_(origin) {}

  // Parses adapter_config.json, lays out adapter.lora and adapter.replaced and claims their
  // tensors. Throws Error. `adapter` must stay where it is until finish().
  void plan(std::string_view config_text, TensorPlan& tensors, Adapter& adapter);

  // After the tensors have been read: PEFT saves embedding and head beside their LoRA; such a copy
  // is dropped where it equals the base's weight, and stands in for it where it does not.
  void finish(Adapter& adapter);

 private:
  void claim_lora(size_t module, TensorPlan& tensors, LoraWeights& weights, bool bias, bool dora);
  void claim_copies(TensorPlan& tensors, const Adapter& adapter);

  const BaseModel& base_;
  std::string origin_;
  std::map<size_t, HostTensor> copies_;  // by module
};

}  // namespace lorax
