#include "device/device_pool.h"

#include <mutex>

#include "base/error.h"
#include "device/device_memory.h"

namespace lorax {
namespace {

class PlainPool final : public DevicePool {
 public:
  PlainPool(DeviceMemory& device, size_t bytes) : device_(device), free_(bytes) {}

  size_t size_of(size_t bytes) const override { return bytes; }

  void* allocate(size_t bytes) override {
    {
      const std::lock_guard lock(mutex_);
      if (bytes > free_) fail("a pool has {} bytes left, not {}", free_, bytes);
      free_ -= bytes;
    }
    try {
      return device_.allocate(bytes);
    } catch (...) {
      give_back(bytes);
      throw;
    }
  }

  void deallocate(void* data, size_t bytes) override {
    device_.deallocate(data, bytes);
    give_back(bytes);
  }

 private:
  void give_back(size_t bytes) {
    const std::lock_guard lock(mutex_);
    free_ += bytes;
  }

  DeviceMemory& device_;
  std::mutex mutex_;
  size_t free_;
};

}  // namespace

std::unique_ptr<DevicePool> make_plain_pool(DeviceMemory& device, size_t bytes) {
  return std::make_unique<PlainPool>(device, bytes);
}

}  // namespace lorax
