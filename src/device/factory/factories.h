// The makers of the devices, each defined in its own folder. Only device_factory.cc calls them.
#pragma once

#include <memory>

#include "device/device.h"

namespace lorax {

// threads 0: one per core this process may run on.
std::unique_ptr<Device> make_cpu_device(int threads);

// The GPU of that index. Defined only in builds with CUDA (kHasCuda, device/factory/has_cuda.h).
std::unique_ptr<Device> make_cuda_device(int index, double memory_fraction);

}  // namespace lorax
