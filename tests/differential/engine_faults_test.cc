// The engine when the model or its device fails: a row that is not a number fails its own request,
// a failed step fails all, and nothing hangs.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <memory>

#include "base/error.h"
#include "base/eventually.h"
#include "engine/engine.h"
#include "engine/schedule/testing/collecting_sink.h"
#include "harness.h"

namespace lorax {
namespace {

struct Faults {
  std::atomic<bool> step_fails{false};
  std::atomic<bool> step_hangs{false};
  std::atomic<int64_t> bad_row{-1};  // of heads of two rows; once
};

class FaultyLM final : public FlashCausalLM {
 public:
  FaultyLM(std::unique_ptr<FlashCausalLM> model, Faults& faults)
      : model_(std::move(model)), faults_(faults) {}

  using FlashCausalLM::forward;
  Tensor forward(Context& context, const ForwardBatch& batch) const override {
    if (faults_.step_fails) fail("the device is gone");
    while (faults_.step_hangs) std::this_thread::yield();
    return model_->forward(context, batch);
  }
  HeadOutput head(Context& context, const Tensor& hidden,
                  const AdapterBatchData* adapters) const override {
    const HeadOutput output = model_->head(context, hidden, adapters);
    if (faults_.bad_row >= 0 && hidden.dim(0) == 2 && output.logits.data != nullptr) {
      const Tensor row = output.logits.slice(0, faults_.bad_row, faults_.bad_row + 1);
      row.as<float>()[3] = std::nanf("");
      faults_.bad_row = -1;
    }
    return output;
  }
  const KvShape& kv_shape() const override { return model_->kv_shape(); }
  const std::vector<AdapterModule>& adapter_modules() const override {
    return model_->adapter_modules();
  }

 private:
  std::unique_ptr<FlashCausalLM> model_;
  Faults& faults_;
};

class FaultyDefinition final : public ModelDefinition {
 public:
  FaultyDefinition(std::unique_ptr<ModelDefinition> definition, Faults& faults)
      : ModelDefinition(definition->info()), definition_(std::move(definition)), faults_(faults) {}

  std::unique_ptr<FlashCausalLM> build(WeightStore& store) const override {
    return std::make_unique<FaultyLM>(definition_->build(store), faults_);
  }
  std::unique_ptr<ModelDefinition> untied() const override { return definition_->untied(); }

 private:
  std::unique_ptr<ModelDefinition> definition_;
  Faults& faults_;
};

// The parameter: whether steps overlap.
class EngineFaultsTest : public ::testing::TestWithParam<bool> {
 protected:
  EngineFaultsTest() {
    EngineOptions options;
    options.kv_blocks = 64;
    options.adapter_bytes = uint64_t{1} << 20;
    options.overlap = GetParam();
    options.on_failed = [this](const std::string& error) {
      EXPECT_FALSE(engine_->healthy());
      EXPECT_NE(error.find("the device is gone"), std::string::npos) << error;
      ++failures_;
    };
    engine_ = std::make_unique<Engine>(loaded_, nullptr, options);
  }

  std::shared_ptr<CollectingSink> submit(uint32_t seed, int64_t tokens) {
    GenerationRequest request;
    request.prompt = differential::random_tokens(9, seed);
    request.sampling.temperature = 0.0f;
    request.max_new_tokens = tokens;
    auto sink = std::make_shared<CollectingSink>();
    last_ = engine_->submit(request, sink);
    return sink;
  }

  std::atomic<int> failures_{0};
  Faults faults_;
  LoadedModel loaded_ = LoadedModel::from_source(
      std::make_unique<FaultyDefinition>(differential::read_definition(), faults_),
      std::make_unique<RandomSource>(1), {.device = {.name = "cpu", .threads = 1}});
  std::unique_ptr<Engine> engine_;
  GenerationService::Submitted last_;
};

INSTANTIATE_TEST_SUITE_P(Steps, EngineFaultsTest, ::testing::Bool(), [](const auto& info) {
  return info.param ? "Overlap" : "OneAfterTheOther";
});

TEST_P(EngineFaultsTest, ARowThatIsNotANumberFailsItsRequestAlone) {
  for (int64_t row : {0, 1}) {
    const std::vector<int32_t> alone[] = {submit(1, 200)->wait().ids(),
                                          submit(2, 200)->wait().ids()};
    const std::shared_ptr<CollectingSink> sinks[] = {submit(1, 200), submit(2, 200)};
    sinks[1]->wait_for_tokens(2);  // both run
    faults_.bad_row = row;
    const Collected& bad = sinks[row]->wait();
    EXPECT_EQ(bad.end.reason, FinishReason::kFailed);
    EXPECT_EQ(bad.end.failure, FailureKind::kRequest);
    EXPECT_NE(bad.end.error.find("not a number"), std::string::npos) << bad.end.error;
    EXPECT_EQ(sinks[1 - row]->wait().end.reason, FinishReason::kLength);
    EXPECT_EQ(sinks[1 - row]->wait().ids(), alone[1 - row]);
    EXPECT_TRUE(engine_->healthy());
  }
  // Nothing of what failed is found again.
  EXPECT_EQ(submit(1, 5)->wait().end.reason, FinishReason::kLength);
}

TEST_P(EngineFaultsTest, AFailedStepFailsAllAndTurnsHealthOff) {
  const auto first = submit(1, 300);
  const auto second = submit(2, 300);
  second->wait_for_tokens(2);
  faults_.step_fails = true;
  for (const auto& sink : {first, second}) {
    EXPECT_EQ(sink->wait().end.reason, FinishReason::kFailed);
    EXPECT_EQ(sink->wait().end.failure, FailureKind::kService);
    EXPECT_NE(sink->wait().end.error.find("the device is gone"), std::string::npos);
  }
  EXPECT_FALSE(engine_->healthy());
  faults_.step_fails = false;
  submit(3, 1);
  EXPECT_EQ(last_.admission, GenerationService::Admission::kStopping);
  engine_->stop(std::chrono::seconds(1));
  EXPECT_EQ(engine_->stats().kv_blocks_used, 0);
  EXPECT_EQ(failures_, 1);
}

// The heartbeat: how long the step in hand has taken; an engine that sleeps is not busy.
TEST_P(EngineFaultsTest, AStepThatHangsIsSeen) {
  submit(1, 3)->wait();
  const auto rests = [&] { return engine_->busy_for().count() == 0; };
  EXPECT_TRUE(eventually(rests));
  faults_.step_hangs = true;
  const auto sink = submit(2, 3);
  EXPECT_TRUE(eventually([&] { return engine_->busy_for() >= std::chrono::milliseconds(50); }));
  EXPECT_TRUE(engine_->healthy());
  faults_.step_hangs = false;
  EXPECT_EQ(sink->wait().end.reason, FinishReason::kLength);
  EXPECT_TRUE(eventually(rests));
}

}  // namespace
}  // namespace lorax
