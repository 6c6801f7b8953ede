#include "device_tensor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>

#include "base/error.h"
#include "device/factory/device_factory.h"

namespace lorax::testing {
namespace {

template <typename T>
inline constexpr bool kIs16BitFloat = std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>;

template <typename T>
T to_element(double value) {
  if constexpr (kIs16BitFloat<T>) {
    return T(static_cast<float>(value));
  } else {
    return static_cast<T>(value);
  }
}

template <typename T>
double to_double(T element) {
  if constexpr (kIs16BitFloat<T>) {
    return static_cast<double>(static_cast<float>(element));
  } else {
    return static_cast<double>(element);
  }
}

// Calls function(T()) with the element type of dtype.
template <typename Function>
void visit(DType dtype, Function&& function) {
  switch (dtype) {
    case DType::kFloat32:
      return function(float());
    case DType::kBFloat16:
      return function(BFloat16());
    case DType::kFloat16:
      return function(Float16());
    case DType::kInt32:
      return function(int32_t());
    case DType::kInt64:
      return function(int64_t());
  }
}

}  // namespace

std::vector<std::string> available_devices() {
  std::vector<std::string> names;
  for (const char* name : {"cpu", "cuda"}) {
    try {
      shared_device(name);
      names.push_back(name);
    } catch (const Error&) {
      // This build or machine does not have it.
    }
  }
  return names;
}

Device& shared_device(const std::string& name) {
  static std::map<std::string, std::unique_ptr<Device>> devices;
  std::unique_ptr<Device>& device = devices[name];
  if (device == nullptr) device = make_device({.name = name, .threads = 0});
  return *device;
}

double rounded(double value, DType dtype) {
  double result = 0.0;
  visit(dtype, [&]<typename T>(T) { result = to_double(to_element<T>(value)); });
  return result;
}

Values random_values(std::mt19937& random, DType dtype, size_t n, double scale) {
  std::normal_distribution<double> normal(0.0, scale);
  Values values(n);
  for (double& value : values) {
    do {
      value = rounded(normal(random), dtype);
    } while (value == 0.0);
  }
  return values;
}

DeviceTensor::DeviceTensor(Device& device, DType dtype, std::initializer_list<int64_t> shape)
    : device_(&device), tensor_(nullptr, dtype, shape) {
  upload(std::vector<char>(tensor_.bytes(), '\xff'));  // all ones are a NaN in every float type
}

DeviceTensor::DeviceTensor(Device& device, DType dtype, std::initializer_list<int64_t> shape,
                           const Values& values)
    : device_(&device), tensor_(nullptr, dtype, shape) {
  LORAX_CHECK(static_cast<int64_t>(values.size()) == tensor_.numel());
  std::vector<char> bytes(tensor_.bytes());
  visit(dtype, [&]<typename T>(T) {
    for (size_t i = 0; i < values.size(); ++i) {
      const T element = to_element<T>(values[i]);
      std::memcpy(bytes.data() + i * sizeof(T), &element, sizeof(T));
    }
  });
  upload(bytes);
}

DeviceTensor DeviceTensor::of_random(Device& device, DType dtype,
                                     std::initializer_list<int64_t> shape, std::mt19937& random,
                                     double scale) {
  constexpr size_t kBlock = 65521;  // prime
  DeviceTensor made(device, dtype, shape);
  const size_t bytes = made.tensor_.bytes();
  const size_t n = std::min(kBlock, static_cast<size_t>(made.tensor_.numel()));
  const DeviceTensor block(device, dtype, {static_cast<int64_t>(n)},
                           random_values(random, dtype, n, scale));
  char* to = static_cast<char*>(made.buffer_.data());
  size_t filled = block.tensor_.bytes();
  device.copy(to, block.buffer_.data(), filled);
  while (filled < bytes) {  // whole blocks until the last copy
    const size_t more = std::min(filled, bytes - filled);
    device.copy(to + filled, to, more);
    filled += more;
  }
  device.synchronize();
  return made;
}

void DeviceTensor::upload(const std::vector<char>& bytes) {
  buffer_ = Buffer(*device_, bytes.size());
  tensor_.data = buffer_.data();
  device_->copy_from_host(buffer_.data(), bytes.data(), bytes.size());
  device_->synchronize();
}

std::vector<char> DeviceTensor::bytes() const {
  std::vector<char> bytes(tensor_.bytes());
  device_->copy_to_host(bytes.data(), buffer_.data(), bytes.size());
  return bytes;
}

Values DeviceTensor::download() const {
  const std::vector<char> from = bytes();
  Values values(static_cast<size_t>(tensor_.numel()));
  visit(tensor_.dtype, [&]<typename T>(T element) {
    for (size_t i = 0; i < values.size(); ++i) {
      std::memcpy(&element, from.data() + i * sizeof(T), sizeof(T));
      values[i] = to_double(element);
    }
  });
  return values;
}

void expect_close(const Values& got, const Values& want, Tolerance tolerance) {
  expect_close(got, want, tolerance, Values(want.size(), 0.0));
}

void expect_close(const Values& got, const Values& want, Tolerance tolerance,
                  const Values& bounds) {
  ASSERT_EQ(got.size(), want.size());
  ASSERT_EQ(got.size(), bounds.size());
  size_t worst = 0;
  double worst_excess = 0.0;  // error in units of what is allowed
  for (size_t i = 0; i < got.size(); ++i) {
    const double allowed = bounds[i] + tolerance.absolute + tolerance.relative * std::abs(want[i]);
    const double error = std::abs(got[i] - want[i]);
    const double excess = std::isfinite(got[i]) ? error / allowed : INFINITY;
    if (error > 0.0 && excess > worst_excess) {
      worst = i;
      worst_excess = excess;
    }
    if (!std::isfinite(got[i])) {
      worst = i;
      worst_excess = INFINITY;
      break;
    }
  }
  EXPECT_LE(worst_excess, 1.0) << "element " << worst << " of " << got.size() << ": got "
                               << got[worst] << ", want " << want[worst];
}

Tolerance rounding(DType dtype, double relative, double absolute) {
  if (dtype == DType::kBFloat16) relative += 0x1p-8;  // half a unit of the last of 8 bits
  if (dtype == DType::kFloat16) {
    relative += 0x1p-11;
    absolute += 0x1p-25;  // of subnormal numbers
  }
  return {relative, absolute};
}

Tolerance rounding_of_sum(const Device& device, DType dtype, int64_t n, double size) {
  const double products = static_cast<double>(n);
  const double terms = device.profile().is_asynchronous ? std::max(64.0, products / 12.0) : 32.0;
  return rounding(dtype, 0.0, terms * std::sqrt(products) * 0x1p-23 * size);
}

}  // namespace lorax::testing
