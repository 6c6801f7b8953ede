// The devices by name. The only way to what device/cpu and device/cuda hold.
#pragma once

#include <memory>
#include <string>

#include "device/device.h"

namespace lorax {

struct DeviceOptions {
  std::string name = "cpu";  // "cpu", "cuda" or "cuda:<index>"
  int threads = 0;           // CPU threads; 0: one per core this process may use
  // The share of a GPU's memory that available_memory() counts on. What others hold is part of it.
  double cuda_memory_fraction = 1.0;
};

// Whether this build knows GPUs.
bool has_cuda();

// Throws Error for an unknown name, or a device that this build or machine does not have.
std::unique_ptr<Device> make_device(const DeviceOptions& options);

}  // namespace lorax
