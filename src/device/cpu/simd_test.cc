// The conversions of float16 by every instruction set of this processor, against base/dtype.h.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "device/cpu/simd_test.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h: compiled once per instruction set.
#include "device/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorax::cpu::HWY_NAMESPACE {
namespace {

// By vectors and, as for_each_vector() does with the last ones, by single lanes.
void widen(const Float16* from, int64_t n, float* to) {
  for_each_vector(0, n,
                  [&](auto d, int64_t i) HWY_ATTR { hn::StoreU(load(d, from + i), d, to + i); });
}

void narrow(const float* from, int64_t n, Float16* to) {
  for_each_vector(0, n,
                  [&](auto d, int64_t i) HWY_ATTR { store(d, hn::LoadU(d, from + i), to + i); });
}

}  // namespace
}  // namespace lorax::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorax::cpu {
namespace {

HWY_EXPORT(widen);
HWY_EXPORT(narrow);

// Calls check() once for every instruction set, by which widen and narrow are then dispatched.
template <typename Check>
void for_each_target(const Check& check) {
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::GetChosenTarget().Update(target);
    check();
  }
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

std::vector<Float16> all_float16() {
  std::vector<Float16> values(65536 + 3);  // single lanes last
  for (size_t i = 0; i < values.size(); ++i) values[i].bits = static_cast<uint16_t>(i * 40503);
  return values;
}

TEST(SimdTest, WidensEveryFloat16) {
  const std::vector<Float16> values = all_float16();
  for_each_target([&] {
    std::vector<float> wide(values.size());
    HWY_DYNAMIC_DISPATCH(widen)(values.data(), static_cast<int64_t>(values.size()), wide.data());
    for (size_t i = 0; i < values.size(); ++i) {
      const float want = static_cast<float>(values[i]);
      if (std::isnan(want)) {
        ASSERT_TRUE(std::isnan(wide[i])) << values[i].bits;
      } else {
        ASSERT_EQ(std::bit_cast<uint32_t>(wide[i]), std::bit_cast<uint32_t>(want));
      }
    }
  });
}

TEST(SimdTest, NarrowsAsFloat16Does) {
  // Float16 values, what lies halfway to their neighbours, and a little on either side of both.
  std::vector<float> values;
  for (Float16 value : all_float16()) {
    const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(value));
    const uint32_t halfway = std::bit_cast<uint32_t>(
        static_cast<float>(value) + std::copysign(0x1p-25f, static_cast<float>(value)));
    for (uint32_t center : {bits, bits + 0x1000u, halfway}) {
      for (uint32_t change : {0xffffffffu, 0u, 1u}) {
        values.push_back(std::bit_cast<float>(center + change));
      }
    }
  }
  std::mt19937 random(1);
  for (int i = 0; i < 100001; ++i)
    values.push_back(std::bit_cast<float>(static_cast<uint32_t>(random())));
  for_each_target([&] {
    std::vector<Float16> narrowed(values.size());
    HWY_DYNAMIC_DISPATCH(narrow)
    (values.data(), static_cast<int64_t>(values.size()), narrowed.data());
    for (size_t i = 0; i < values.size(); ++i) {
      if (std::isnan(values[i])) {
        ASSERT_TRUE(std::isnan(static_cast<float>(narrowed[i]))) << i;
      } else {
        ASSERT_EQ(narrowed[i].bits, Float16(values[i]).bits) << values[i];
      }
    }
  });
}

}  // namespace
}  // namespace lorax::cpu
#endif  // HWY_ONCE
