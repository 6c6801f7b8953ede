// The engine on every device of this build and machine, with memory for two of its adapters: they
// come and go beside the steps of others, and each text is as on the CPU.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "device_tensor.h"
#include "engine/engine.h"
#include "engine/schedule/testing/collecting_sink.h"

namespace lorax {
namespace {

const std::string kModel = "models/tiny-gemma2";

std::vector<GenerationRequest> requests_over_adapters() {
  std::vector<GenerationRequest> requests;
  const std::string names[] = {"", "pirate", "caps", "modern", "verse-numbers"};
  for (int32_t i = 0; i < 40; ++i) {
    GenerationRequest& request = requests.emplace_back();
    request.prompt = {2, 300 + i, 301 + 2 * i, 302};
    const std::string& name = names[i % 5];
    if (!name.empty()) request.adapter = kModel + "/adapters/" + name;
    request.sampling.temperature = 0.0f;
    request.max_new_tokens = 8 + i % 7;
  }
  return requests;
}

LoadedModel load(const std::string& device) {
  return LoadedModel::from_checkpoint(
      kModel, {.device = {.name = device, .threads = 2}, .dtype = DType::kFloat32});
}

std::vector<std::vector<int32_t>> texts_of(Engine& engine) {
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (const GenerationRequest& request : requests_over_adapters()) {
    sinks.push_back(std::make_shared<CollectingSink>());
    engine.submit(request, sinks.back());
  }
  std::vector<std::vector<int32_t>> texts;
  for (const std::shared_ptr<CollectingSink>& sink : sinks) {
    EXPECT_EQ(sink->wait().end.error, "");
    texts.push_back(sink->wait().ids());
  }
  return texts;
}

class EngineDevicesTest : public ::testing::TestWithParam<std::string> {};

TEST_P(EngineDevicesTest, AdaptersComeAndGoBesideSteps) {
  EngineOptions options;
  options.max_running_sequences = 12;
  options.kv_blocks = 256;
  LoadedModel host = load("cpu");
  Engine expected(host, nullptr, options);
  LoadedModel loaded = load(GetParam());
  // Room for two: pages of a pool may have two megabytes. On a CPU reading one takes more.
  const bool has_own_memory = GetParam() != "cpu";
  options.adapter_bytes = uint64_t{has_own_memory ? 5u : 64u} << 20;
  options.adapter_host_bytes = uint64_t{64} << 20;
  Engine engine(loaded, nullptr, options);
  EXPECT_EQ(texts_of(engine), texts_of(expected));
  engine.stop(std::chrono::milliseconds(0));
  EXPECT_EQ(engine.stats().kv_blocks_used, 0);
  EXPECT_EQ(engine.adapters().stats().device.evictions > 0, has_own_memory);
}

TEST_P(EngineDevicesTest, WithoutMemoryForAdaptersTheBaseIsServed) {
  EngineOptions options;
  options.max_running_sequences = 4;
  options.kv_blocks = 256;
  options.adapter_bytes = 0;
  LoadedModel loaded = load(GetParam());
  Engine engine(loaded, nullptr, options);
  EXPECT_EQ(engine.plan().memory.adapters, 0u);
  std::vector<GenerationRequest> requests = requests_over_adapters();
  for (size_t i : {size_t{0}, size_t{1}}) {
    const auto sink = std::make_shared<CollectingSink>();
    engine.submit(requests[i], sink);
    EXPECT_EQ(sink->wait().end.error.find("0 bytes") != std::string::npos, i == 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, EngineDevicesTest,
                         ::testing::ValuesIn(testing::available_devices()),
                         [](const auto& device) { return device.param; });

// What a runner takes, known before there is one.
TEST(RunnerMemoryTest, IsWhatTheRunnerTakes) {
  LoadedModel loaded = load("cpu");
  const RunnerLimits limits = {.max_tokens = 64,
                               .max_sequences = 8,
                               .max_length = 100,
                               .max_logits_rows = 8,
                               .kv_blocks = 1,
                               .max_speculative_heads = 3};
  const RunnerMemory without = measure_runner(loaded.model(), limits, false);
  const RunnerMemory with = measure_runner(loaded.model(), limits, true);
  EXPECT_EQ(without.vocab_size, 2048);
  EXPECT_EQ(without.head_inputs, 0u);
  EXPECT_GT(with.bytes(), without.bytes());
  const ModelRunner runner(loaded.device(), loaded.model(), limits);
  EXPECT_EQ(runner.memory().bytes(), without.bytes());
  RunnerLimits wider = limits;
  wider.max_tokens *= 2;
  EXPECT_GT(measure_runner(loaded.model(), wider, false).workspace, without.workspace);
}

}  // namespace
}  // namespace lorax
