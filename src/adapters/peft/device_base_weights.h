// The base model's weights as the device holds them, for what reading an adapter asks of them.
#pragma once

#include <map>
#include <mutex>
#include <vector>

#include "adapters/peft/base_model.h"
#include "device/device.h"

namespace lorax {

class DeviceBaseWeights final : public BaseWeights {
 public:
  // Both must outlive this.
  DeviceBaseWeights(DeviceMemory& device, std::span<const AdapterModule> modules)
      : device_(device), modules_(modules) {}

  bool equals(size_t module, const HostTensor& weight) const override;
  std::optional<size_t> tied_to(size_t module) const override;

  // Rows [first, first + count) of a module's weight as float32.
  std::vector<float> rows(size_t module, int64_t first, int64_t count) const;

  // ||W||_F of a matrix to some per cent: from 32 rows spread over it. Read once.
  double norm(size_t module) const;

 private:
  DeviceMemory& device_;
  std::span<const AdapterModule> modules_;
  mutable std::mutex mutex_;
  mutable std::map<size_t, double> norms_;  // guarded by mutex_
};

}  // namespace lorax
