// A device's memory, apart from what it computes (device/device.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "device/device_pool.h"
#include "device/owned_bytes.h"

namespace lorax {

// A moment in the order of a device's work. Must not outlive its Device.
class DeviceEvent {
 public:
  virtual ~DeviceEvent() = default;
  // This moment: when the device has done all that it was asked for so far.
  virtual void record() = 0;
  // Returns when the device has come to the moment; at once if there is none yet.
  virtual void wait() = 0;
  // From the moment `earlier`, of the same device, to this one, as the device's clock has it. Waits
  // for both.
  virtual double seconds_since(DeviceEvent& earlier) = 0;
};

class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;

  // Large allocations of the CPU lie in huge pages where the system gives them. Contents
  // are undefined. Throws Error if there is no memory.
  virtual uint64_t total_memory() const = 0;      // bytes there are, free or not
  virtual uint64_t memory_limit() const;          // of these, what all programs may hold
  virtual uint64_t available_memory() const = 0;  // bytes that allocate() can still give
  virtual void* allocate(size_t bytes) = 0;
  virtual void deallocate(void* data, size_t bytes) = 0;
  // Host <-> device, contiguous bytes; ordered with the kernels of this device. copy_to_host has
  // finished when it returns; copy_from_host may still read `from` until synchronize().
  virtual void copy_from_host(void* to, const void* from, size_t bytes) = 0;
  virtual void copy_to_host(void* to, const void* from, size_t bytes) = 0;
  // The same into the memory of a HostBuffer, which holds the bytes once an event that is recorded
  // behind this has come.
  virtual void begin_copy_to_host(void* to, const void* from, size_t bytes);
  // Within the device, contiguous bytes that do not overlap; ordered with its kernels.
  virtual void copy(void* to, const void* from, size_t bytes) = 0;
  virtual void synchronize() = 0;
  // The same as copy_from_host, but done when it returns, from any thread, and beside the kernels:
  // those under way go on, and no order holds between them and the copy.
  virtual void upload(void* to, const void* from, size_t bytes);
  // The same for copy_to_host.
  virtual void download(void* to, const void* from, size_t bytes);
  // The memory of a HostBuffer. copy_from_host from such memory takes its bytes when the device
  // comes to it: they must stay until then (DeviceEvent).
  virtual void* allocate_host(size_t bytes);
  virtual void deallocate_host(void* data, size_t bytes);
  virtual std::unique_ptr<DeviceEvent> make_event();
  // Of `bytes`, taken now. Throws Error if there is less.
  virtual std::unique_ptr<DevicePool> make_pool(size_t bytes);

  // Whether host code may read and write what allocate() gives: device and host share one memory,
  // and nothing needs to be held twice.
  virtual bool memory_is_host() const = 0;
};

// Device bytes, aligned to 64 or more. Move-only; must not outlive the device.
using Buffer = OwnedBytes<DeviceMemory, &DeviceMemory::allocate, &DeviceMemory::deallocate>;

// Host bytes, aligned to 64 or more, that the device copies from and to at full speed and beside
// its kernels (pinned, where that means anything). Move-only; must not outlive the device.
using HostBuffer =
    OwnedBytes<DeviceMemory, &DeviceMemory::allocate_host, &DeviceMemory::deallocate_host>;

}  // namespace lorax
