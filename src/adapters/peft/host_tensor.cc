#include "adapters/peft/host_tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>
#include <utility>

#include "base/check.h"

namespace lorax {
namespace {

// Whether any element has all its exponent bits set. Without a branch per element.
template <typename Bits>
bool any_has(const std::byte* data, size_t n, Bits exponent) {
  constexpr size_t kBlock = 4096;
  for (size_t begin = 0; begin < n; begin += kBlock) {
    const size_t count = std::min(kBlock, n - begin);
    unsigned found = 0;
    for (size_t i = 0; i < count; ++i) {
      Bits bits;
      std::memcpy(&bits, data + (begin + i) * sizeof(Bits), sizeof(Bits));
      found |= static_cast<unsigned>((bits & exponent) == exponent);
    }
    if (found != 0) return true;
  }
  return false;
}

}  // namespace

HostTensor HostTensor::allocate(DType dtype, std::vector<int64_t> shape) {
  HostTensor tensor;
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  // Not make_shared, which would fill with zeros what is about to be read.
  tensor.data = std::shared_ptr<std::byte[]>(new std::byte[tensor.bytes()]);
  return tensor;
}

HostTensor HostTensor::from_floats(const std::vector<float>& values, std::vector<int64_t> shape) {
  HostTensor tensor = allocate(DType::kFloat32, std::move(shape));
  LORAX_CHECK(tensor.bytes() == values.size() * sizeof(float));
  std::memcpy(tensor.data.get(), values.data(), tensor.bytes());
  return tensor;
}

int64_t HostTensor::elements() const {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  return count;
}

void HostTensor::copy_to(DType to_dtype, void* to) const {
  convert(data.get(), dtype, to, to_dtype, static_cast<size_t>(elements()));
}

std::vector<float> HostTensor::floats() const {
  std::vector<float> values(static_cast<size_t>(elements()));
  copy_to(DType::kFloat32, values.data());
  return values;
}

bool HostTensor::all_finite() const {
  const auto n = static_cast<size_t>(elements());
  switch (dtype) {
    case DType::kFloat32:
      return !any_has<uint32_t>(data.get(), n, 0x7f800000u);
    case DType::kBFloat16:
      return !any_has<uint16_t>(data.get(), n, 0x7f80u);
    case DType::kFloat16:
      return !any_has<uint16_t>(data.get(), n, 0x7c00u);
    case DType::kInt32:
    case DType::kInt64:
      break;
  }
  LORAX_CHECK(false, "{} is no float type", name_of(dtype));
  return false;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace lorax
