#include "base/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace lorax {
namespace {

TEST(DTypeTest, EveryBFloat16SurvivesARoundTrip) {
  for (uint32_t i = 0; i < 65536; ++i) {
    BFloat16 value;
    value.bits = static_cast<uint16_t>(i);
    const float wide = static_cast<float>(value);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(static_cast<float>(BFloat16(wide))));
    } else {
      EXPECT_EQ(BFloat16(wide).bits, i);
    }
  }
}

TEST(DTypeTest, EveryFloat16SurvivesARoundTrip) {
  for (uint32_t i = 0; i < 65536; ++i) {
    Float16 value;
    value.bits = static_cast<uint16_t>(i);
    const float wide = static_cast<float>(value);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(static_cast<float>(Float16(wide))));
    } else {
      EXPECT_EQ(Float16(wide).bits, i);
    }
  }
}

TEST(DTypeTest, NarrowingRoundsToNearestEven) {
  EXPECT_EQ(BFloat16(1.0f + 0x1p-8f).bits, 0x3f80);            // halfway, even below
  EXPECT_EQ(BFloat16(1.0f + 0x1p-7f + 0x1p-8f).bits, 0x3f82);  // halfway, even above
  EXPECT_EQ(Float16(1.0f + 0x1p-11f).bits, 0x3c00);
  EXPECT_EQ(Float16(1.0f + 0x1p-10f + 0x1p-11f).bits, 0x3c02);
  EXPECT_EQ(Float16(0x1p-24f).bits, 0x0001);
  EXPECT_EQ(Float16(0x1p-25f).bits, 0x0000);  // halfway to the smallest subnormal
  EXPECT_EQ(Float16(65519.0f).bits, 0x7bff);
  EXPECT_EQ(Float16(65520.0f).bits, 0x7c00);
  EXPECT_EQ(BFloat16(std::numeric_limits<float>::max()).bits, 0x7f80);
}

TEST(DTypeTest, ConvertsArrays) {
  const std::vector<float> values = {0.0f, -1.5f, 3.25f, 1e-3f};
  std::vector<BFloat16> narrow(values.size());
  std::vector<float> wide(values.size());
  convert(values.data(), DType::kFloat32, narrow.data(), DType::kBFloat16, values.size());
  convert(narrow.data(), DType::kBFloat16, wide.data(), DType::kFloat32, values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(wide[i], static_cast<float>(BFloat16(values[i])));
  }
}

TEST(DTypeTest, NamesAreThoseOfPyTorch) {
  EXPECT_EQ(parse_dtype("torch.bfloat16"), DType::kBFloat16);
  EXPECT_EQ(parse_dtype("float32"), DType::kFloat32);
  EXPECT_EQ(parse_dtype("int8"), std::nullopt);
  EXPECT_EQ(name_of(DType::kFloat16), "float16");
}

}  // namespace
}  // namespace lorax
