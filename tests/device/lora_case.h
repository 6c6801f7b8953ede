// Adapters with random factors on a device, for the tests of the low-rank operations.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "device/lora.h"
#include "device_tensor.h"
#include "reference_ops.h"

namespace lorax::testing {

// Some adapters of some modules of one input width, in the layout of device/lora.h.
class LoraCase {
 public:
  struct Module {
    int64_t columns;
    bool embedding = false;  // `inputs` is then the vocabulary
    // The ranks' rows of A are multiplied by 2^-spread to 2^spread and their columns of B divided.
    int spread = 0;
  };
  // ranks[slot][module]; 0 leaves a module alone. Every second slot has gains, every third biases.
  LoraCase(Device& device, DType dtype, int64_t inputs, const std::vector<Module>& modules,
           const std::vector<std::vector<int64_t>>& ranks, uint32_t seed);

  // adapters[row] is a slot or -1.
  LoraRows rows(const std::vector<int>& adapters);
  std::vector<LoraTarget> targets() const;
  const reference::LowRank& factors(size_t slot, size_t module) const {
    return factors_[slot][module];
  }

 private:
  const void* upload(const Values& values, DType dtype);
  LoraEntry make_entry(int64_t rank, const Module& module, size_t slot,
                       reference::LowRank& factors);

  Device& device_;
  DType dtype_;
  int64_t inputs_;
  std::vector<Module> modules_;
  std::mt19937 random_;
  std::vector<std::vector<reference::LowRank>> factors_;  // [slots][modules]
  std::vector<DeviceTensor> memory_;
  Buffer entries_;
};

}  // namespace lorax::testing
