#include "engine/run/input_block.h"
#include "device/factory/device_factory.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace lorax {
namespace {

template <typename T>
std::vector<T> values_of(const Tensor& tensor) {
  const T* data = tensor.as<T>();
  return {data, data + tensor.numel()};
}

TEST(InputBlockTest, HoldsWhatWasPutAtTheSamePlaces) {
  const std::unique_ptr<Device> device = make_device({.name = "cpu", .threads = 1});
  InputBlock block(*device, InputBlock::room_for<int32_t>(3) + InputBlock::room_for<int64_t>(9) +
                                InputBlock::room_for<int32_t>(16));
  const void* places[3] = {};
  for (int32_t round = 0; round < 5; ++round) {
    const std::vector<int32_t> few = {round, 7, -1};
    std::vector<int64_t> wide(9);
    std::iota(wide.begin(), wide.end(), int64_t{round} << 40);
    std::vector<int32_t> full(16, round);
    block.begin();
    const Tensor a = block.put(std::span<const int32_t>(few), {3});
    const Tensor b = block.put(std::span<const int64_t>(wide), {3, 3});
    const Tensor c = block.put(std::span<const int32_t>(full), {16});
    block.send();
    EXPECT_EQ(values_of<int32_t>(a), few);
    EXPECT_EQ(values_of<int64_t>(b), wide);
    EXPECT_EQ(values_of<int32_t>(c), full);
    EXPECT_TRUE(b.has_shape({3, 3}));
    for (const auto& [i, tensor] : {std::pair(0, &a), std::pair(1, &b), std::pair(2, &c)}) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor->data) % 64, 0u);
      if (round == 0) places[i] = tensor->data;
      EXPECT_EQ(tensor->data, places[i]);
    }
  }
}

TEST(InputBlockTest, NothingIsNothing) {
  const std::unique_ptr<Device> device = make_device({.name = "cpu", .threads = 1});
  InputBlock block(*device, 0);
  block.begin();
  EXPECT_EQ(block.put(std::span<const int32_t>(), {0}).numel(), 0);
  block.send();
}

TEST(InputBlockDeathTest, RefusesMoreThanItsRoom) {
  const std::unique_ptr<Device> device = make_device({.name = "cpu", .threads = 1});
  InputBlock block(*device, InputBlock::room_for<int32_t>(16));
  const std::vector<int32_t> values(17);
  block.begin();
  EXPECT_DEATH(block.put(std::span<const int32_t>(values), {17}), "CHECK");
}

}  // namespace
}  // namespace lorax
