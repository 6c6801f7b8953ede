// What a step costs beside the model's forward, at 64 running sequences: plan and commit, the
// step's batch (on a device that computes nothing), greedy choice, and telling the clients.
#include <benchmark/benchmark.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "device/dry_run.h"
#include "device/factory/device_factory.h"
#include "engine/load/loaded_model.h"
#include "engine/run/engine_request.h"
#include "engine/run/model_runner.h"
#include "engine/sample/sampler.h"
#include "engine/schedule/scheduler.h"
#include "models/registry/model_registry.h"

namespace lorax {
namespace {

const char kModel[] = "models/tiny-gemma2";
constexpr int64_t kSequences = 64;
constexpr int64_t kPrompt = 100;
constexpr int64_t kGenerate = 400;

// Every adapter is there at once.
class ReadyAdapters final : public AdapterExchange {
 public:
  std::unique_ptr<AdapterLease> request(const std::string& id) override {
    class Lease final : public AdapterLease {
     public:
      explicit Lease(std::string id) : id_(std::move(id)) {}
      State state() override { return State::kReady; }
      std::string error() const override { return ""; }
      int32_t slot() const override { return kNoAdapter; }
      const std::string& digest() const override { return id_; }

     private:
      std::string id_;
    };
    return std::make_unique<Lease>(id);
  }
};

// A scheduler whose places are always taken: who ends is followed by another.
class Load {
 public:
  explicit Load(int64_t adapters) : adapters_(adapters), scheduler_(options(), exchange_) {
    for (int64_t i = 0; i < 2 * kSequences; ++i) submit();
    // Into the middle of things, where sequences end at different times.
    for (int64_t i = 0; i < 3 * kGenerate; ++i) commit(schedule());
  }

  const StepPlan& schedule() { return scheduler_.schedule(now_); }
  void commit(const StepPlan& plan) {
    results_.clear();
    int64_t ended = 0;
    for (const StepWork& work : plan.work) {
      const bool ends =
          work.samples && work.sequence->length() + 1 ==
                              kPrompt + kGenerate - static_cast<int64_t>(work.sequence->id % 200);
      ended += ends ? 1 : 0;
      StepResult result;
      if (ends) {
        result.kind = StepResult::Kind::kEnded;
      } else if (work.samples) {
        result.token = static_cast<int32_t>(work.sequence->length() % 2000);
      }
      results_.push_back(result);
    }
    scheduler_.commit(results_, now_);
    for (; ended > 0; --ended) submit();
  }

  static SchedulerOptions options() {
    SchedulerOptions options;
    options.blocks = 4096;
    options.max_running = kSequences;
    options.step_tokens = 256;
    return options;
  }

 private:
  void submit() {
    const RequestId id = ++last_id_;
    ScheduledRequest request;
    request.id = id;
    if (adapters_ > 0) {
      request.adapter = "adapter " + std::to_string(id % static_cast<uint64_t>(adapters_));
    }
    request.prompt.assign(kPrompt, static_cast<int32_t>(id % 2000));
    request.max_new_tokens = kGenerate;
    scheduler_.submit(std::move(request), now_);
  }

  const int64_t adapters_;
  Scheduler::Time now_{};
  ReadyAdapters exchange_;
  Scheduler scheduler_;
  std::vector<StepResult> results_;
  RequestId last_id_ = 0;
};

void plan_and_commit(benchmark::State& state) {
  Load load(state.range(0));
  for (auto _ : state) load.commit(load.schedule());
}
BENCHMARK(plan_and_commit)
    ->ArgName("adapters")
    ->Arg(0)
    ->Arg(20)
    ->Arg(1000)
    ->Unit(benchmark::kMicrosecond);

void batch(benchmark::State& state) {
  const std::unique_ptr<ModelDefinition> definition = read_model_definition(kModel);
  DryRunDevice device;
  const RandomSource source(1);
  WeightStore store(device, source, DType::kBFloat16, WeightStore::Mode::kCheck);
  const std::unique_ptr<FlashCausalLM> model = definition->build(store);
  ModelRunner runner(device, *model,
                     {.max_tokens = 256,
                      .max_sequences = kSequences,
                      .max_length = 1024,
                      .max_logits_rows = kSequences,
                      .kv_blocks = 4096});
  Load load(0);
  std::vector<SequenceStep> steps;
  const StepPlan& plan = load.schedule();
  for (auto _ : state) {
    steps.clear();
    for (const StepWork& work : plan.work) {
      const ScheduledSequence& sequence = *work.sequence;
      steps.push_back({.tokens = std::span(sequence.tokens)
                                     .subspan(static_cast<size_t>(sequence.cached),
                                              static_cast<size_t>(work.tokens)),
                       .position = sequence.cached,
                       .blocks = sequence.blocks.ids(),
                       .adapter = sequence.slot()});
    }
    runner.step(steps);
    runner.logits(0, static_cast<int64_t>(steps.size()));
  }
  load.commit(plan);
}
BENCHMARK(batch)->Unit(benchmark::kMicrosecond);

// On the CPU's threads.
void choose_greedily(benchmark::State& state) {
  constexpr int64_t kVocab = 2048;
  const std::unique_ptr<Device> device = make_device({});
  std::vector<float> logits(static_cast<size_t>(kSequences * kVocab));
  for (size_t i = 0; i < logits.size(); ++i)
    logits[i] = static_cast<float>(i * 7919 % 2003) * 0.01f;
  const Buffer buffer(*device, logits.size() * sizeof(float));
  device->copy_from_host(buffer.data(), logits.data(), buffer.bytes());
  const Tensor rows(buffer.data(), DType::kFloat32, {kSequences, kVocab});
  const SamplerState greedy({.temperature = 0.0f}, {});
  const std::vector<SamplerRow> wanted(static_cast<size_t>(kSequences), {.state = &greedy});
  Sampler sampler(*device);
  for (auto _ : state) benchmark::DoNotOptimize(sampler.sample(rows, wanted));
}
BENCHMARK(choose_greedily)->Unit(benchmark::kMicrosecond);

void tell_clients(benchmark::State& state) {
  class Sink final : public GenerationSink {
   public:
    void on_prompt(std::vector<TokenInfo>) override {}
    void on_token(GeneratedToken token) override { benchmark::DoNotOptimize(token); }
    void on_end(GenerationEnd) override {}
  };
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(kModel);
  std::vector<std::unique_ptr<EngineRequest>> requests;
  for (int64_t i = 0; i < kSequences; ++i) {
    GenerationRequest request;
    request.prompt = {2};
    request.max_new_tokens = INT64_MAX;
    if (state.range(0) != 0) request.stop = {"\n\n", "User:"};
    requests.push_back(std::make_unique<EngineRequest>(std::move(request), std::make_shared<Sink>(),
                                                       EngineRequest::Time()));
    requests.back()->begin(tokenizer.get());
  }
  int32_t token = 300;
  for (auto _ : state) {
    for (const auto& request : requests) {
      token = 300 + (token + 1) % 1000;
      request->report_token({.id = token, .logprob = -1.0f}, {});
    }
  }
}
BENCHMARK(tell_clients)->ArgName("stops")->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace lorax

BENCHMARK_MAIN();
