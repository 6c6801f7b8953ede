// What a device reaches at its best: the ceilings that steps are measured against.
#pragma once

#include "device/device.h"

namespace lorax::cli {

// C: copying `bytes` within the device, read and written bytes counted, GB/s. from and to hold
// `bytes` each and are larger than any cache.
double copy_rate(Device& device, void* to, const void* from, size_t bytes);

// P: the bfloat16 product of two random 8192 x 8192 matrices, TFLOP/s.
double matmul_rate(Device& device);

}  // namespace lorax::cli
