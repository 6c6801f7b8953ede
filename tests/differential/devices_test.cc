// The forward contract on every device of this build and machine against the CPU: the same weights
// and tokens give the same logits up to rounding, however a sequence is cut into steps and whatever
// runs beside it.
#include <gtest/gtest.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "device_tensor.h"
#include "harness.h"

namespace lorax::differential {
namespace {

class DevicesTest : public ::testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  LoadedModel load_on_device() const { return load(dtype_, 2, std::get<0>(GetParam())); }

  // Sequence 0, 150 tokens in one step, on the CPU.
  std::vector<float> expected() const {
    LoadedModel loaded = load(dtype_, 2);
    Harness harness(loaded, {150});
    harness.step({{0, 150}});
    return harness.logits(0);
  }

  // ||got - want|| / ||want||. In float32 only the order of sums differs; in bfloat16 a value near
  // the middle of two representable ones may fall on either side, in every layer.
  void expect_near(const std::vector<float>& got, const std::vector<float>& want) const {
    ASSERT_EQ(got.size(), want.size());
    double error = 0.0;
    double norm = 0.0;
    for (size_t i = 0; i < got.size(); ++i) {
      error += std::pow(static_cast<double>(got[i]) - want[i], 2);
      norm += std::pow(static_cast<double>(want[i]), 2);
    }
    EXPECT_LT(std::sqrt(error / norm), dtype_ == DType::kFloat32 ? 1e-5 : 2e-2);
  }

  const DType dtype_ = std::get<1>(GetParam());
};

TEST_P(DevicesTest, OneStep) {
  LoadedModel loaded = load_on_device();
  Harness harness(loaded, {150});
  harness.step({{0, 150}});
  expect_near(harness.logits(0), expected());
}

TEST_P(DevicesTest, ChunksOfAnySize) {
  const std::vector<float> want = expected();
  LoadedModel loaded = load_on_device();
  for (int64_t chunk : {1, 7, 16, 64, 100}) {
    Harness harness(loaded, {150});
    for (int64_t done = 0; done < 150; done += chunk) {
      harness.step({{0, std::min(chunk, 150 - done)}});
    }
    expect_near(harness.logits(0), want);
  }
}

TEST_P(DevicesTest, BatchMates) {
  LoadedModel loaded = load_on_device();
  Harness harness(loaded, {150, 1, 33, 200});
  // Prefill beside prefill, chunks beside decode steps, then decode alone.
  harness.step({{3, 100}, {0, 60}, {1, 1}});
  harness.step({{2, 30}, {0, 1}, {3, 50}});
  harness.step({{0, 80}, {2, 1}, {3, 1}});
  while (harness.sequence(0).pending() > 0) {
    if (harness.sequence(2).pending() > 0) {
      harness.step({{2, 1}, {0, 1}});
    } else {
      harness.step({{0, 1}});
    }
  }
  expect_near(harness.logits(0), expected());
}

INSTANTIATE_TEST_SUITE_P(Devices, DevicesTest,
                         ::testing::Combine(::testing::ValuesIn(testing::available_devices()),
                                            ::testing::Values(DType::kFloat32, DType::kBFloat16)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" +
                                  std::string(name_of(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace lorax::differential
