// What reading an adapter asks of the model it is for.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "adapters/host_tensor.h"
#include "nn/adapter_module.h"

namespace lorax {

// The base's weights, behind an interface because they may lie anywhere. Calls come from the
// threads that load adapters, several at once.
class BaseWeights {
 public:
  virtual ~BaseWeights() = default;

  // Whether `weight`, of the shape of that module's weight, holds the values that the base's
  // checkpoint has there (norms without Gemma's 1), rounded to the narrower of the two types.
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
};

}  // namespace lorax
