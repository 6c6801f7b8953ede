// What a device need not do in a way of its own.
#include "device/device.h"

#include <chrono>
#include <new>
#include <utility>

#include "base/check.h"

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

HostBuffer::HostBuffer(Device& device, size_t bytes)
    : device_(&device), data_(device.allocate_host(bytes)), bytes_(bytes) {}

HostBuffer::~HostBuffer() {
  if (data_ != nullptr) device_->deallocate_host(data_, bytes_);
}

HostBuffer::HostBuffer(HostBuffer&& other) noexcept
    : device_(other.device_),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

HostBuffer& HostBuffer::operator=(HostBuffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

uint64_t Device::memory_limit() const { return total_memory(); }

void Device::begin_copy_to_host(void* to, const void* from, size_t bytes) {
  copy_to_host(to, from, bytes);
}

void Device::upload(void* to, const void* from, size_t bytes) {
  copy_from_host(to, from, bytes);
  synchronize();
}

void Device::download(void* to, const void* from, size_t bytes) { copy_to_host(to, from, bytes); }

void* Device::allocate_host(size_t bytes) { return ::operator new(bytes, kHostAlignment); }

void Device::deallocate_host(void* data, size_t) { ::operator delete(data, kHostAlignment); }

std::unique_ptr<DeviceEvent> Device::make_event() { return std::make_unique<HostEvent>(); }

std::unique_ptr<DevicePool> Device::make_pool(size_t bytes) {
  return make_plain_pool(*this, bytes);
}

std::unique_ptr<DeviceGraph> Device::capture(const std::function<void()>&) { return nullptr; }

void Device::replay(DeviceGraph&) { LORAX_CHECK(false, "a graph of another device"); }

void Device::rms_norm_add_norm(const Tensor& x, const Tensor& weight, float eps,
                               const Tensor& residual, const Tensor& next_weight, float next_eps,
                               const Tensor& out) {
  rms_norm_add(x, weight, eps, residual);
  rms_norm(residual, next_weight, next_eps, out);
}

void Device::linear_lora(const Tensor& x, const Tensor& weight, LoraTargets targets,
                         const LoraRows& rows, const Tensor& out) {
  linear(x, weight, out);
  lora(x, targets, rows, out);
}

void Device::rotary_store_kv(const Tensor& q, const Tensor& k, const Tensor& v,
                             const Tensor& positions, const Tensor& cos, const Tensor& sin,
                             const Tensor& slots, const PagedKv& kv) {
  rotary(q, positions, cos, sin);
  rotary(k, positions, cos, sin);
  store_kv(k, v, slots, kv);
}

void Device::linear_gelu_tanh_mul(const Tensor& x, const Tensor& weight, const Tensor& gate_up,
                                  const Tensor& out) {
  linear(x, weight, gate_up);
  gelu_tanh_mul(gate_up, out);
}

}  // namespace lorax
