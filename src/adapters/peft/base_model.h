// What reading an adapter asks of the model it is for.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "adapters/peft/host_tensor.h"
#include "nn/adapter_module.h"

namespace lorax {

// The base's weights, behind an interface because they may lie anywhere. Calls come from the
// threads that load adapters, several at once.
class BaseWeights {
 public:
  virtual ~BaseWeights() = default;

  // Whether `weight`, of the shape of that module's weight, makes no difference in its place: in
  // the type that the model computes in, to which PEFT converts it, it has the same values.
  virtual bool equals(size_t module, const HostTensor& weight) const = 0;

  // The other module that uses the same weight: a tied head for the embedding, and the other way
  // round. Nothing for all others.
  virtual std::optional<size_t> tied_to(size_t module) const = 0;
};

// A view; what it points to must outlive the call it is handed to.
struct BaseModel {
  std::span<const AdapterModule> modules;  // every one that adapters can change, embedding included
  const BaseWeights* weights = nullptr;
  std::string name;  // what adapters call their base: --model-id; "" if unknown
  // Keys of adapters' configs that may have any value although nothing implements them.
  std::span<const std::string> ignored_config_keys = {};
};

}  // namespace lorax
