#include "device/device_pool.h"

#include <mutex>
#include <utility>

#include "base/error.h"
#include "device/device.h"

namespace lorax {
namespace {

class PlainPool final : public DevicePool {
 public:
  PlainPool(Device& device, size_t bytes) : device_(device), free_(bytes) {}

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

  Device& device_;
  std::mutex mutex_;
  size_t free_;
};

}  // namespace

std::unique_ptr<DevicePool> make_plain_pool(Device& device, size_t bytes) {
  return std::make_unique<PlainPool>(device, bytes);
}

PoolBlock::PoolBlock(DevicePool& pool, size_t bytes)
    : pool_(&pool), data_(pool.allocate(bytes)), bytes_(bytes) {}

PoolBlock::~PoolBlock() {
  if (data_ != nullptr) pool_->deallocate(data_, bytes_);
}

PoolBlock::PoolBlock(PoolBlock&& other) noexcept
    : pool_(other.pool_),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

PoolBlock& PoolBlock::operator=(PoolBlock&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace lorax
