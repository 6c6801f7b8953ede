// Memory of a device for what comes and goes while it works.
#pragma once

#include <cstddef>
#include <memory>

#include "device/owned_bytes.h"

namespace lorax {

class DeviceMemory;

// Taken as a whole, so that its blocks never lack memory; and never split up: free bytes make a
// block wherever they lie. No call waits for the device's work or holds it up. Any thread. Must not
// outlive its device.
class DevicePool {
 public:
  virtual ~DevicePool() = default;

  // What a block of `bytes` takes of the pool.
  virtual size_t size_of(size_t bytes) const = 0;
  // Aligned to 64 or more; contents are undefined. Throws Error if too little is free.
  virtual void* allocate(size_t bytes) = 0;
  // Of a block of that size. The device must have ended all work on it.
  virtual void deallocate(void* data, size_t bytes) = 0;
};

// A pool that takes its blocks from DeviceMemory::allocate() one by one, `bytes` at most: what
// holds of that function holds of its calls.
std::unique_ptr<DevicePool> make_plain_pool(DeviceMemory& device, size_t bytes);

// Bytes of a pool. Move-only; must not outlive the pool.
using PoolBlock = OwnedBytes<DevicePool, &DevicePool::allocate, &DevicePool::deallocate>;

}  // namespace lorax
