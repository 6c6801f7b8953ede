#include "adapters/peft/device_base_weights.h"

#include <gtest/gtest.h>

#include <vector>

#include "device/device.h"
#include "device/factory/device_factory.h"

namespace lorax {
namespace {

// More elements than are compared at a time, and a last piece that is smaller than the others.
constexpr int64_t kRows = 1301, kColumns = 2048;

class DeviceBaseWeightsTest : public ::testing::Test {
 protected:
  DeviceBaseWeightsTest() {
    const auto add = [&](const char* name, AdapterModule::Kind kind, const Tensor& weight) {
      modules_.push_back({name, kind, kRows, kColumns, weight});
    };
    add("embed_tokens", AdapterModule::Kind::kEmbedding, weight_);
    add("other", AdapterModule::Kind::kLinear, Tensor(other_.data(), DType::kFloat32, {2, 2}));
    add("lm_head", AdapterModule::Kind::kLinear, weight_);
    copy_ = HostTensor::allocate(DType::kFloat32, {kRows, kColumns});
    std::fill_n(floats(), kRows * kColumns, 0.5f);
  }
  float* floats() { return reinterpret_cast<float*>(copy_.data.get()); }

  std::unique_ptr<Device> device_ = make_device({.name = "cpu", .threads = 1});
  std::vector<float> values_ = std::vector<float>(kRows * kColumns, 0.5f);
  std::vector<float> other_ = std::vector<float>(4, 0.5f);
  Tensor weight_{values_.data(), DType::kFloat32, {kRows, kColumns}};
  std::vector<AdapterModule> modules_;
  HostTensor copy_;
};

// Wherever it stands: in the first row, the last one, and at the borders of pieces.
TEST_F(DeviceBaseWeightsTest, OneElementThatDiffersIsSeen) {
  const DeviceBaseWeights weights(*device_, modules_);
  EXPECT_TRUE(weights.equals(2, copy_));
  for (const int64_t row : {int64_t{0}, int64_t{511}, int64_t{512}, int64_t{1023}, int64_t{1024},
                            kRows - 2, kRows - 1}) {
    for (const int64_t column : {int64_t{0}, kColumns - 1}) {
      floats()[row * kColumns + column] = 0.25f;
      EXPECT_FALSE(weights.equals(2, copy_)) << row << ", " << column;
      floats()[row * kColumns + column] = 0.5f;
    }
  }
  EXPECT_TRUE(weights.equals(0, copy_));
}

TEST_F(DeviceBaseWeightsTest, TiedModulesKnowEachOther) {
  const DeviceBaseWeights weights(*device_, modules_);
  EXPECT_EQ(weights.tied_to(0), 2u);
  EXPECT_EQ(weights.tied_to(2), 0u);
  EXPECT_EQ(weights.tied_to(1), std::nullopt);
}

TEST_F(DeviceBaseWeightsTest, RowsAreThoseThatAreAskedFor) {
  const DeviceBaseWeights weights(*device_, modules_);
  for (int64_t row = 0; row < kRows; ++row) values_[row * kColumns] = static_cast<float>(row);
  const std::vector<float> rows = weights.rows(0, kRows - 2, 2);
  ASSERT_EQ(rows.size(), 2u * kColumns);
  EXPECT_EQ(rows[0], kRows - 2.0f);
  EXPECT_EQ(rows[kColumns], kRows - 1.0f);
  EXPECT_EQ(rows.back(), 0.5f);
}

}  // namespace
}  // namespace lorax
