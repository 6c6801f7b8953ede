// The forward contract on every device of this build and machine against the CPU: the same weights
// and tokens give the same logits up to rounding, however a sequence is cut into steps and whatever
// runs beside it.
#include <gtest/gtest.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "cli/bench_adapters.h"
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

  // ||got - want|| / ||want||. In float32 only the order of sums differs; in 16 bits a value near
  // the middle of two representable ones may fall on either side, in every layer.
  void expect_near(const std::vector<float>& got, const std::vector<float>& want) const {
    ASSERT_EQ(got.size(), want.size());
    double error = 0.0;
    double norm = 0.0;
    for (size_t i = 0; i < got.size(); ++i) {
      error += std::pow(static_cast<double>(got[i]) - want[i], 2);
      norm += std::pow(static_cast<double>(want[i]), 2);
    }
    const double allowed = dtype_ == DType::kFloat32    ? 1e-5
                           : dtype_ == DType::kBFloat16 ? 2e-2
                                                        : 2.5e-3;
    EXPECT_LT(std::sqrt(error / norm), allowed);
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

// Decode as it runs in service, from graphs where the device has them, and beside it a harness
// whose every kernel is launched on its own, and one on the CPU.
class DecodeTest : public DevicesTest {
 protected:
  void SetUp() override {
    if (!loaded_.device().can_capture()) GTEST_SKIP() << "this device has no graphs";
  }

  // Tables with room for four adapters, of which set() fills one from another's.
  struct Tables {
    explicit Tables(LoadedModel& model)
        : few(model, 3, 5, {"all"}),
          many(model, 3, 40, {"q_proj", "down_proj"}),
          tables(model.device(), static_cast<int64_t>(model.model().adapter_modules().size()), 4,
                 model.dtype()) {}

    void set(int32_t slot, const cli::BenchAdapters& from, int32_t which) {
      tables.set(slot, from.tables().slot(which));
    }

    cli::BenchAdapters few, many;
    AdapterTables tables;
  };

  void expect_like_cpu(const Harness& got, const Harness& want, size_t sequences) const {
    for (size_t i = 0; i < sequences; ++i) expect_near(got.logits(i), want.logits(i));
  }

  // Graphs of few rows of bfloat16 may run as programs, which take sums in another order.
  void expect_like_launches(const Harness& graphs, const Harness& launches,
                            size_t sequences) const {
    for (size_t i = 0; i < sequences; ++i) {
      if (dtype_ == DType::kFloat32) {
        EXPECT_EQ(graphs.logits(i), launches.logits(i)) << i;
      } else {
        expect_near(graphs.logits(i), launches.logits(i));
      }
    }
  }

  LoadedModel loaded_ = load_on_device();
  LoadedModel on_cpu_ = load(dtype_, 2);
};

std::vector<std::pair<size_t, int64_t>> one_token_each(size_t sequences) {
  std::vector<std::pair<size_t, int64_t>> work;
  for (size_t i = 0; i < sequences; ++i) work.emplace_back(i, 1);
  return work;
}

TEST_P(DecodeTest, BatchesOfAnySize) {
  const std::vector<int64_t> lengths(40, 24);
  Harness graphs(loaded_, lengths);
  Harness launches(loaded_, lengths, nullptr, false);
  Harness cpu(on_cpu_, lengths);
  for (size_t batch : {1, 2, 3, 4, 5, 8, 9, 17, 31, 33, 40, 33, 5, 2, 40, 1, 9, 3}) {
    for (Harness* harness : {&graphs, &launches, &cpu}) harness->step(one_token_each(batch));
  }
  EXPECT_GT(graphs.runner().graph_stats().graphs, 0);
  EXPECT_EQ(launches.runner().graph_stats().graphs, 0);
  expect_like_launches(graphs, launches, lengths.size());
  expect_like_cpu(graphs, cpu, lengths.size());
}

TEST_P(DecodeTest, SequencesGrowAcrossParts) {
  // Past 64, 128 and 256 keys, where attention cuts them into more parts.
  const std::vector<int64_t> lengths = {300, 200, 90};
  Harness graphs(loaded_, lengths);
  Harness launches(loaded_, lengths, nullptr, false);
  Harness cpu(on_cpu_, lengths);
  graphs.runner().capture_graphs();
  const int64_t captured = graphs.runner().graph_stats().graphs;
  for (Harness* harness : {&graphs, &launches, &cpu}) {
    harness->step({{0, 50}, {1, 50}, {2, 1}});
    for (int i = 0; i < 80; ++i) harness->step({{0, 1}, {1, 1}, {2, 1}});
    harness->step({{0, 100}});  // a prefill between replays
    for (int i = 0; i < 60; ++i) harness->step({{1, 1}, {0, 1}});
  }
  EXPECT_EQ(graphs.runner().graph_stats().graphs, captured);
  expect_like_launches(graphs, launches, lengths.size());
  expect_like_cpu(graphs, cpu, lengths.size());
}

TEST_P(DecodeTest, AdaptersComeAndGo) {
  const std::vector<int64_t> lengths(6, 40);
  Tables on_device(loaded_);
  Tables on_cpu(on_cpu_);
  Harness graphs(loaded_, lengths, &on_device.tables);
  Harness launches(loaded_, lengths, &on_device.tables, false);
  Harness cpu(on_cpu_, lengths, &on_cpu.tables);
  const auto steps = [&](int count, size_t batch, const std::vector<int32_t>& adapters) {
    for (Harness* harness : {&graphs, &launches, &cpu}) {
      for (size_t i = 0; i < batch; ++i) harness->sequence(i).adapter = adapters[i];
      for (int i = 0; i < count; ++i) harness->step(one_token_each(batch));
    }
  };
  const auto set = [&](int32_t slot, bool many, int32_t which) {
    for (Tables* tables : {&on_device, &on_cpu}) {
      tables->set(slot, many ? tables->many : tables->few, which);
    }
  };
  set(0, false, 0);
  set(1, false, 1);
  steps(4, 6, {0, 1, -1, 0, -1, 1});
  const int64_t captured = graphs.runner().graph_stats().graphs;
  set(1, true, 0);  // another rank, and other modules
  set(2, true, 1);
  steps(4, 6, {2, 1, 0, -1, 2, 0});
  steps(4, 5, {1, 1, 1, 1, 1});  // the same bucket, one adapter for all
  EXPECT_EQ(graphs.runner().graph_stats().graphs, captured);
  steps(4, 6, {-1, -1, -1, -1, -1, -1});
  set(0, true, 2);
  steps(4, 6, {3, 0, 2, -1, 1, 3});  // slot 3 is empty
  EXPECT_EQ(graphs.runner().graph_stats().graphs, captured + 1);
  expect_like_launches(graphs, launches, lengths.size());
  expect_like_cpu(graphs, cpu, lengths.size());
}

TEST_P(DecodeTest, AdaptersBeyondGraphs) {
  // Those of the head run launch by launch, between replays.
  const std::vector<int64_t> lengths(3, 20);
  const cli::BenchAdapters on_device(loaded_, 2, 6, {"lm_head", "v_proj"});
  const cli::BenchAdapters on_cpu(on_cpu_, 2, 6, {"lm_head", "v_proj"});
  Harness graphs(loaded_, lengths, &on_device.tables());
  Harness cpu(on_cpu_, lengths, &on_cpu.tables());
  for (Harness* harness : {&graphs, &cpu}) {
    for (int i = 0; i < 15; ++i) {
      harness->sequence(0).adapter = i % 3 == 0 ? kNoAdapter : 1;
      harness->sequence(1).adapter = i % 3 == 0 ? kNoAdapter : 0;
      harness->step(one_token_each(3));
    }
  }
  EXPECT_EQ(graphs.runner().graph_stats().graphs, 1);
  expect_like_cpu(graphs, cpu, lengths.size());
}

TEST_P(DecodeTest, LogitsStayOnTheDevice) {
  Harness harness(loaded_, {10, 10});
  harness.step(one_token_each(2));
  std::vector<SequenceStep> steps = {next_step(harness.sequence(0), 1),
                                     next_step(harness.sequence(1), 1)};
  ASSERT_EQ(harness.runner().step(steps), 2);
  const Tensor second = harness.runner().device_logits(1, 1);
  ASSERT_TRUE(second.has_shape({1, kVocab}));
  std::vector<float> copy(static_cast<size_t>(kVocab));
  loaded_.device().copy_to_host(copy.data(), second.data, second.bytes());
  const std::span<const float> both = harness.runner().logits(0, 2);
  EXPECT_TRUE(std::ranges::equal(copy, both.subspan(static_cast<size_t>(kVocab))));
}

// Not a constant: devices are looked for when the program has begun.
auto every_device() {
  return ::testing::Combine(::testing::ValuesIn(testing::available_devices()),
                            ::testing::ValuesIn(testing::kModelDtypes));
}
const auto kNameOfParam = [](const auto& info) {
  return std::get<0>(info.param) + "_" + std::string(name_of(std::get<1>(info.param)));
};
INSTANTIATE_TEST_SUITE_P(Devices, DecodeTest, every_device(), kNameOfParam);
INSTANTIATE_TEST_SUITE_P(Devices, DevicesTest, every_device(), kNameOfParam);

}  // namespace
}  // namespace lorax::differential
