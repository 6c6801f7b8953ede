#include "base/dtype.h"

#include <cstring>

#include "base/check.h"

namespace lorax {
namespace {

template <typename From, typename To>
void convert_elements(const void* from, void* to, size_t n) {
  const From* source = static_cast<const From*>(from);
  To* target = static_cast<To*>(to);
  for (size_t i = 0; i < n; ++i) target[i] = static_cast<To>(static_cast<float>(source[i]));
}

template <typename From>
void convert_from(const void* from, void* to, DType to_dtype, size_t n) {
  switch (to_dtype) {
    case DType::kFloat32:
      return convert_elements<From, float>(from, to, n);
    case DType::kBFloat16:
      return convert_elements<From, BFloat16>(from, to, n);
    case DType::kFloat16:
      return convert_elements<From, Float16>(from, to, n);
    default:
      LORAX_CHECK(false, "convert to {}", name_of(to_dtype));
  }
}

}  // namespace

std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat16:
      return "float16";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
  }
  return "?";
}

std::optional<DType> parse_dtype(std::string_view name) {
  if (name.starts_with("torch.")) name.remove_prefix(6);
  for (DType dtype :
       {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kInt32, DType::kInt64}) {
    if (name == name_of(dtype)) return dtype;
  }
  return std::nullopt;
}

Float16::Float16(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    bits = sign | 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // rounds to 65536 or more: infinity
    bits = sign | 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // subnormal half: let the float adder round at bit 2^-24
    const float scaled = std::bit_cast<float>(magnitude) + 0.5f;
    bits = sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(scaled) - 0x3f000000u);
  } else {
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    bits = sign | static_cast<uint16_t>((rounded - 0x38000000u) >> 13);
  }
}

Float16::operator float() const {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    const float value = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -value : value;
  }
  return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

void convert(const void* from, DType from_dtype, void* to, DType to_dtype, size_t n) {
  if (from_dtype == to_dtype) {
    std::memcpy(to, from, n * size_of(from_dtype));
    return;
  }
  switch (from_dtype) {
    case DType::kFloat32:
      return convert_from<float>(from, to, to_dtype, n);
    case DType::kBFloat16:
      return convert_from<BFloat16>(from, to, to_dtype, n);
    case DType::kFloat16:
      return convert_from<Float16>(from, to, to_dtype, n);
    default:
      LORAX_CHECK(false, "convert from {}", name_of(from_dtype));
  }
}

}  // namespace lorax
