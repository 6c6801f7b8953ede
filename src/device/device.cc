// What a device need not do in a way of its own.
#include "device/device.h"

#include "base/check.h"

namespace lorax {

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
