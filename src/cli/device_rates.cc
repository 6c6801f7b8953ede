#include "cli/device_rates.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

namespace lorax::cli {
namespace {

// Seconds of one call of `work`: the median of some runs of several calls.
double median_seconds(Device& device, int calls, const std::function<void()>& work) {
  std::vector<double> seconds;
  for (int run = 0; run < 6; ++run) {
    const auto start = std::chrono::steady_clock::now();
    for (int call = 0; call < calls; ++call) work();
    device.synchronize();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    if (run > 0) seconds.push_back(elapsed.count() / calls);  // the first warms up
  }
  std::ranges::sort(seconds);
  return seconds[seconds.size() / 2];
}

}  // namespace

double copy_rate(Device& device, void* to, const void* from, size_t bytes) {
  const double seconds = median_seconds(device, 4, [&] { device.copy(to, from, bytes); });
  return 2.0 * static_cast<double>(bytes) / seconds * 1e-9;
}

double matmul_rate(Device& device) {
  constexpr int64_t kSize = 8192;
  std::vector<BFloat16> values(static_cast<size_t>(kSize * kSize));
  uint32_t state = 1;
  for (BFloat16& value : values) {
    state = state * 1664525u + 1013904223u;
    value = BFloat16(static_cast<float>(state >> 8) * 0x1p-23f - 1.0f);
  }
  const size_t bytes = values.size() * sizeof(BFloat16);
  Buffer x(device, bytes), weight(device, bytes), out(device, bytes);
  device.copy_from_host(x.data(), values.data(), bytes);
  device.synchronize();
  std::ranges::reverse(values);
  device.copy_from_host(weight.data(), values.data(), bytes);
  device.synchronize();
  const auto matrix = [](const Buffer& buffer) {
    return Tensor(buffer.data(), DType::kBFloat16, {kSize, kSize});
  };
  const double seconds =
      median_seconds(device, 8, [&] { device.linear(matrix(x), matrix(weight), matrix(out)); });
  return 2.0 * kSize * kSize * kSize / seconds * 1e-12;
}

}  // namespace lorax::cli
