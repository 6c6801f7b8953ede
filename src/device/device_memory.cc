// What a device's memory need not do in a way of its own.
#include "device/device_memory.h"

#include <chrono>
#include <new>

namespace lorax {
namespace {

// Of a device whose calls have done their work when they return.
class HostEvent final : public DeviceEvent {
 public:
  void record() override { moment_ = std::chrono::steady_clock::now(); }
  void wait() override {}
  double seconds_since(DeviceEvent& earlier) override {
    return std::chrono::duration<double>(moment_ - static_cast<HostEvent&>(earlier).moment_)
        .count();
  }

 private:
  std::chrono::steady_clock::time_point moment_;
};

constexpr std::align_val_t kHostAlignment{64};

}  // namespace

uint64_t DeviceMemory::memory_limit() const { return total_memory(); }

void DeviceMemory::begin_copy_to_host(void* to, const void* from, size_t bytes) {
  copy_to_host(to, from, bytes);
}

void DeviceMemory::upload(void* to, const void* from, size_t bytes) {
  copy_from_host(to, from, bytes);
  synchronize();
}

void DeviceMemory::download(void* to, const void* from, size_t bytes) {
  copy_to_host(to, from, bytes);
}

void* DeviceMemory::allocate_host(size_t bytes) { return ::operator new(bytes, kHostAlignment); }

void DeviceMemory::deallocate_host(void* data, size_t) { ::operator delete(data, kHostAlignment); }

std::unique_ptr<DeviceEvent> DeviceMemory::make_event() { return std::make_unique<HostEvent>(); }

std::unique_ptr<DevicePool> DeviceMemory::make_pool(size_t bytes) {
  return make_plain_pool(*this, bytes);
}

}  // namespace lorax
