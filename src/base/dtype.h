// Element types and the two 16-bit floats. Conversions follow IEEE 754: widening is exact,
// narrowing rounds to nearest even; NaN stays NaN.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace lorax {

enum class DType : uint8_t { kFloat32, kBFloat16, kFloat16, kInt32, kInt64 };

// Bytes of one element.
constexpr size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
    case DType::kBFloat16:
    case DType::kFloat16:
      return 2;
    case DType::kInt64:
      return 8;
  }
  return 0;
}

// "float32", "bfloat16", "float16", "int32", "int64": PyTorch's names.
std::string_view name_of(DType dtype);
// Inverse of name_of, also with the prefix "torch."; nothing for other texts.
std::optional<DType> parse_dtype(std::string_view name);

// The upper half of a float32: 8 exponent bits, 7 stored mantissa bits.
struct BFloat16 {
  uint16_t bits = 0;

  BFloat16() = default;
  explicit BFloat16(float value) {
    uint32_t u = std::bit_cast<uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      bits = static_cast<uint16_t>((u >> 16) | 0x40u);  // keep a NaN a (quiet) NaN
    } else {
      bits = static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
  }
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
};

// IEEE 754 binary16.
struct Float16 {
  uint16_t bits = 0;

  Float16() = default;
  explicit Float16(float value);
  explicit operator float() const;
};

template <typename T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::kFloat32;
}
template <>
constexpr DType dtype_of<BFloat16>() {
  return DType::kBFloat16;
}
template <>
constexpr DType dtype_of<Float16>() {
  return DType::kFloat16;
}
template <>
constexpr DType dtype_of<int32_t>() {
  return DType::kInt32;
}
template <>
constexpr DType dtype_of<int64_t>() {
  return DType::kInt64;
}

// Converts n elements between float types (kFloat32, kBFloat16, kFloat16); equal types are copied.
// The ranges must not overlap.
void convert(const void* from, DType from_dtype, void* to, DType to_dtype, size_t n);

}  // namespace lorax
