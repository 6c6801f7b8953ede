// The engine on models/tiny-gemma2 and its adapters: what a request gives does not depend on what
// runs beside it, on how its prompt is cut, on preemption, on the prefix cache, or on whether steps
// overlap, to the last bit.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <random>
#include <thread>

#include "base/eventually.h"
#include "engine/schedule/testing/collecting_sink.h"
#include "text/tokenizer.h"

namespace lorax {
namespace {

using Admission = GenerationService::Admission;

const std::string kModel = "models/tiny-gemma2";

struct Handle {
  RequestId id = 0;
  std::shared_ptr<CollectingSink> sink;
  const Collected& wait() const { return sink->wait(); }
};

Handle submit(Engine& engine, const GenerationRequest& request) {
  Handle handle = {.id = 0, .sink = std::make_shared<CollectingSink>()};
  const GenerationService::Submitted submitted = engine.submit(request, handle.sink);
  EXPECT_EQ(submitted.admission, Admission::kAccepted);
  handle.id = submitted.id;
  return handle;
}

std::string adapter(const std::string& name) { return kModel + "/adapters/" + name; }

// The parameter: whether steps overlap.
class EngineTest : public ::testing::TestWithParam<bool> {
 protected:
  EngineOptions small() const {
    EngineOptions options;
    options.overlap = GetParam();
    options.max_concurrent_requests = 1000;
    options.adapter_bytes = uint64_t{64} << 20;
    options.kv_blocks = 256;
    return options;
  }

  GenerationRequest request(const std::string& text, int64_t max_new_tokens,
                            const std::string& adapter_id = "") const {
    GenerationRequest request;
    request.prompt = tokenizer_->encode(text);
    request.prompt.insert(request.prompt.begin(), *tokenizer_->bos_id());
    request.adapter = adapter_id;
    request.sampling.temperature = 0.0f;
    request.max_new_tokens = max_new_tokens;
    return request;
  }

  // Over the base and four adapters, some with equal beginnings.
  std::vector<GenerationRequest> mixed_requests(size_t count) const {
    const std::string beginnings[] = {
        "And it came to pass in those days, that there went out a decree from Caesar Augustus, "
        "that all the world should be taxed. ",
        "In the beginning God created the heaven and the earth. And the earth was without form, "
        "and void; and darkness was upon the face of the deep. ",
        "The LORD is my shepherd; "};
    const std::string adapters[] = {"", adapter("pirate"), adapter("caps"), adapter("modern"),
                                    adapter("verse-numbers")};
    std::mt19937 random(7);
    std::vector<GenerationRequest> requests;
    for (size_t i = 0; i < count; ++i) {
      std::string text = beginnings[random() % 3];
      for (auto words = random() % 12; words > 0; --words) {
        text += std::to_string(random() % 1000) + " ";
      }
      requests.push_back(request(text, 1 + static_cast<int64_t>(random() % 64),
                                 adapters[random() % std::size(adapters)]));
    }
    return requests;
  }

  // Each in an engine that has nothing else to do and no prefix cache.
  std::vector<Collected> run_alone(const std::vector<GenerationRequest>& requests) {
    EngineOptions options = small();
    options.overlap = false;
    options.prefix_cache = false;
    options.chunked_prefill = false;
    Engine engine(loaded_, tokenizer_.get(), options);
    std::vector<Collected> results;
    for (const GenerationRequest& request : requests) {
      results.push_back(submit(engine, request).wait());
    }
    return results;
  }

  std::vector<Collected> run_together(Engine& engine,
                                      const std::vector<GenerationRequest>& requests) {
    std::vector<Handle> handles;
    for (const GenerationRequest& request : requests) handles.push_back(submit(engine, request));
    std::vector<Collected> results;
    for (const Handle& handle : handles) results.push_back(handle.wait());
    return results;
  }

  void expect_equal(const std::vector<Collected>& got, const std::vector<Collected>& want) {
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].end.error, "") << i;
      EXPECT_EQ(got[i].ids(), want[i].ids()) << i;
      EXPECT_EQ(got[i].logprobs(), want[i].logprobs()) << i;
      EXPECT_EQ(got[i].text, want[i].text) << i;
      EXPECT_EQ(got[i].end.reason, want[i].end.reason) << i;
    }
  }

  // All requests of a stopped engine have ended: nothing is held, and the figures are the sums of
  // what its clients have seen. All looked for a prefix, if there is a cache.
  void expect_at_rest(const Engine& engine, const std::vector<Collected>& results,
                      bool prefix_cache) {
    const ServiceStats stats = engine.stats();
    EXPECT_EQ(stats.running, 0);
    EXPECT_EQ(stats.waiting, 0);
    EXPECT_EQ(stats.kv_blocks_used, 0);
    EXPECT_TRUE(stats.running_adapters.empty() && stats.waiting_adapters.empty());
    uint64_t prompts = 0, generated = 0, cached = 0, preemptions = 0;
    for (const Collected& result : results) {
      EXPECT_EQ(result.end.generated_tokens, static_cast<int64_t>(result.tokens.size()));
      prompts += static_cast<uint64_t>(result.end.prompt_tokens);
      generated += result.tokens.size();
      cached += static_cast<uint64_t>(result.end.cached_prompt_tokens);
      preemptions += static_cast<uint64_t>(result.end.preemptions);
    }
    EXPECT_EQ(stats.prompt_tokens, prompts);
    EXPECT_EQ(stats.generated_tokens, generated);
    EXPECT_EQ(stats.prefix_tokens_queried, prefix_cache ? prompts : 0);
    EXPECT_EQ(stats.prefix_tokens_hit, cached);
    EXPECT_EQ(stats.preemptions, preemptions);
    EXPECT_EQ(stats.kv_blocks_cached > 0, prefix_cache);
  }

  LoadedModel loaded_ =
      LoadedModel::from_checkpoint(kModel, {.device = {.name = "cpu", .threads = 1}});
  std::unique_ptr<Tokenizer> tokenizer_ = load_tokenizer(kModel);
};

INSTANTIATE_TEST_SUITE_P(Steps, EngineTest, ::testing::Bool(), [](const auto& info) {
  return info.param ? "Overlap" : "OneAfterTheOther";
});

TEST_P(EngineTest, ManyAtOnceGiveWhatEachGivesAlone) {
  const std::vector<GenerationRequest> requests = mixed_requests(64);
  const std::vector<Collected> alone = run_alone(requests);
  for (bool prefix_cache : {false, true}) {
    for (bool chunked_prefill : {true, false}) {
      EngineOptions options = small();
      options.kv_blocks = 24;  // 384 tokens, for sequences of up to 150: some are preempted
      options.max_total_tokens = 180;
      options.max_running_sequences = 24;
      options.step_tokens = 29;
      options.prefix_cache = prefix_cache;
      options.chunked_prefill = chunked_prefill;
      Engine engine(loaded_, tokenizer_.get(), options);
      const std::vector<Collected> together = run_together(engine, requests);
      expect_equal(together, alone);
      engine.stop(std::chrono::seconds(0));
      EXPECT_GT(engine.stats().preemptions, 0u);
      EXPECT_EQ(engine.stats().prefix_tokens_hit > 0, prefix_cache);
      expect_at_rest(engine, together, prefix_cache);
    }
  }
}

TEST_P(EngineTest, APrefixHitGivesWhatAColdRunGives) {
  Engine engine(loaded_, tokenizer_.get(), small());
  const GenerationRequest first = mixed_requests(1)[0];
  const Collected cold = submit(engine, first).wait();
  EXPECT_EQ(cold.end.cached_prompt_tokens, 0);
  const Collected warm = submit(engine, first).wait();
  EXPECT_GE(warm.end.cached_prompt_tokens, 16);
  EXPECT_LT(warm.end.cached_prompt_tokens, static_cast<int64_t>(first.prompt.size()));
  expect_equal({warm}, {cold});

  // Prompt and text, as the next turn of a conversation: pages of generated tokens are found, too.
  GenerationRequest next = first;
  const std::vector<int32_t> ids = cold.ids();
  next.prompt.insert(next.prompt.end(), ids.begin(), ids.end());
  next.prompt.push_back(300);
  const Collected continued = submit(engine, next).wait();
  EXPECT_GT(continued.end.cached_prompt_tokens,
            static_cast<int64_t>(first.prompt.size()) / 16 * 16);
  expect_equal({continued}, run_alone({next}));

  // The same tokens under an adapter have other keys and values.
  GenerationRequest other = first;
  other.adapter = adapter("pirate");
  EXPECT_EQ(submit(engine, other).wait().end.cached_prompt_tokens, 0);
}

TEST_P(EngineTest, PromptLogprobsAreThoseOfTheTokensAsTheyAreGenerated) {
  Engine engine(loaded_, tokenizer_.get(), small());
  GenerationRequest plain = request("The LORD is my shepherd;", 24);
  plain.alternatives = 3;
  const Collected generated = submit(engine, plain).wait();
  GenerationRequest scored = plain;
  const std::vector<int32_t> ids = generated.ids();
  scored.prompt.insert(scored.prompt.end(), ids.begin(), ids.end());
  scored.prompt_logprobs = true;
  scored.prompt_alternatives = 3;
  scored.max_new_tokens = 1;
  const Collected got = submit(engine, scored).wait();
  EXPECT_EQ(got.end.cached_prompt_tokens, 0);
  ASSERT_EQ(got.prompt.size(), scored.prompt.size());
  EXPECT_TRUE(std::isnan(got.prompt[0].logprob));
  for (size_t i = 0; i < ids.size(); ++i) {
    const TokenInfo& token = got.prompt[plain.prompt.size() + i];
    const TokenInfo& want = generated.tokens[i].token;
    EXPECT_EQ(token.id, want.id);
    EXPECT_EQ(token.logprob, want.logprob);
    ASSERT_EQ(token.alternatives.size(), 3u);
    EXPECT_EQ(token.alternatives[0].id, want.id);  // greedy
    EXPECT_EQ(token.alternatives[0].logprob, want.logprob);
    EXPECT_EQ(token.alternatives[2].id, want.alternatives[2].id);
    EXPECT_EQ(token.alternatives[2].logprob, want.alternatives[2].logprob);
  }
}

// Penalties, draws, watermarks and alternatives need the token of the step in front; more rows than
// the head takes at once, and prompts' scores among them.
TEST_P(EngineTest, SamplingIsAsAloneInStepsOfManyRows) {
  std::vector<GenerationRequest> requests = mixed_requests(90);
  for (size_t i = 0; i < requests.size(); ++i) {
    SamplingParameters& sampling = requests[i].sampling;
    sampling.seed = 100 + i;
    sampling.temperature = i % 3 == 0 ? 0.0f : 0.9f;
    sampling.repetition_penalty = i % 2 == 0 ? 1.3f : 1.0f;
    sampling.frequency_penalty = i % 5 == 0 ? 0.4f : 0.0f;
    sampling.watermark = i % 7 == 0;
    requests[i].alternatives = i % 4 == 0 ? 3 : 0;
    requests[i].prompt_logprobs = i % 6 == 0;
    requests[i].max_new_tokens = 8 + static_cast<int64_t>(i % 9);
  }
  const std::vector<Collected> alone = run_alone(requests);
  EngineOptions options = small();
  options.kv_blocks = 800;
  options.max_running_sequences = 90;  // 64 rows go to the head at once
  options.step_tokens = 300;
  Engine engine(loaded_, tokenizer_.get(), options);
  const std::vector<Collected> together = run_together(engine, requests);
  expect_equal(together, alone);
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_EQ(together[i].prompt.size(), alone[i].prompt.size()) << i;
    for (size_t j = 1; j < alone[i].prompt.size(); ++j) {
      EXPECT_EQ(together[i].prompt[j].id, alone[i].prompt[j].id);
      EXPECT_EQ(together[i].prompt[j].logprob, alone[i].prompt[j].logprob);
    }
    for (size_t j = 0; j < alone[i].tokens.size(); ++j) {
      EXPECT_EQ(std::ssize(together[i].tokens[j].token.alternatives), requests[i].alternatives);
    }
  }
}

// The times of steps that follow each other add up: what the host does in between is in them.
TEST_P(EngineTest, AStepsTimeIsFromTheEndOfTheOneBefore) {
  constexpr std::chrono::milliseconds kPause{20};
  std::vector<std::chrono::nanoseconds> times;
  EngineOptions options = small();
  options.on_step = [&](const StepReport& report) {
    times.push_back(report.time);
    std::this_thread::sleep_for(kPause);
  };
  Engine engine(loaded_, tokenizer_.get(), options);
  submit(engine, request("The LORD is my shepherd;", 5)).wait();
  constexpr std::chrono::seconds kRest{1};  // which is in no step's time
  std::this_thread::sleep_for(kRest);
  submit(engine, request("The LORD is my shepherd;", 1)).wait();
  engine.stop(std::chrono::milliseconds(0));
  ASSERT_EQ(times.size(), 6u);
  for (size_t i = 1; i < 5; ++i) EXPECT_GE(times[i], kPause) << i;
  EXPECT_LT(times[5], kRest);
}

TEST_P(EngineTest, StopStringsEndTheTextAndAreNotInIt) {
  Engine engine(loaded_, tokenizer_.get(), small());
  GenerationRequest plain = request("And the LORD spake unto Moses,", 40);
  const Collected whole = submit(engine, plain).wait();
  ASSERT_GT(whole.text.size(), 20u);
  plain.stop = {"never said", whole.text.substr(11, 6)};
  const Collected cut = submit(engine, plain).wait();
  const size_t at = whole.text.find(plain.stop[1]);
  EXPECT_EQ(cut.end.reason, FinishReason::kStopSequence);
  EXPECT_EQ(cut.end.stop_sequence, plain.stop[1]);
  EXPECT_EQ(cut.text, whole.text.substr(0, at));
}

// Before that, a stop string is text like any other.
TEST_P(EngineTest, StopStringsWaitForTheFewestTokens) {
  Engine engine(loaded_, tokenizer_.get(), small());
  GenerationRequest plain = request("And the LORD spake unto Moses,", 30);
  const Collected whole = submit(engine, plain).wait();
  plain.stop = {"e", "a", "o", " "};
  size_t before = 0;
  for (const int32_t fewest : {0, 7, 15, 29, 30}) {
    plain.sampling.min_tokens = fewest;
    const Collected cut = submit(engine, plain).wait();
    EXPECT_GE(cut.tokens.size(), static_cast<size_t>(fewest));
    EXPECT_GE(cut.tokens.size(), before);
    EXPECT_TRUE(whole.text.starts_with(cut.text)) << cut.text;
    before = cut.tokens.size();
  }
  EXPECT_EQ(before, 30u);
}

TEST_P(EngineTest, EosTokensEndTheText) {
  Engine engine(loaded_, tokenizer_.get(), small());
  GenerationRequest plain = request("And the LORD spake unto Moses,", 12);
  const std::vector<int32_t> ids = submit(engine, plain).wait().ids();
  plain.eos_token_ids = {ids[5]};
  const Collected cut = submit(engine, plain).wait();
  EXPECT_EQ(cut.end.reason, FinishReason::kEosToken);
  EXPECT_EQ(cut.ids().back(), ids[5]);
  EXPECT_LE(cut.ids().size(), 6u);
}

TEST_P(EngineTest, ABrokenAdapterFailsItsOwnRequestsOnly) {
  Engine engine(loaded_, tokenizer_.get(), small());
  const Handle broken = submit(engine, request("In", 4, "no/such/adapter"));
  const Handle good = submit(engine, request("In", 4, adapter("caps")));
  EXPECT_EQ(broken.wait().end.reason, FinishReason::kFailed);
  EXPECT_EQ(broken.wait().end.failure, FailureKind::kAdapter);
  EXPECT_NE(broken.wait().end.error.find("no/such/adapter"), std::string::npos);
  EXPECT_EQ(good.wait().end.reason, FinishReason::kLength);
}

TEST_P(EngineTest, WhatCannotBeServedFailsAlone) {
  Engine engine(loaded_, tokenizer_.get(), small());
  GenerationRequest empty = request("In", 4);
  empty.prompt.clear();
  GenerationRequest unknown = request("In", 4);
  unknown.prompt.push_back(1 << 20);
  GenerationRequest endless = request("In", int64_t{1} << 62);
  for (const GenerationRequest& bad : {empty, unknown, endless}) {
    const Collected got = submit(engine, bad).wait();
    EXPECT_EQ(got.end.reason, FinishReason::kFailed);
    EXPECT_EQ(got.end.failure, FailureKind::kRequest);
    EXPECT_NE(got.end.error, "");
  }
  EXPECT_EQ(submit(engine, request("In", 4)).wait().end.reason, FinishReason::kLength);
}

TEST_P(EngineTest, CancelAndDeadlineEndRequestsEarly) {
  Engine engine(loaded_, tokenizer_.get(), small());
  const Handle cancelled = submit(engine, request("In", 900));
  cancelled.sink->wait_for_tokens(2);
  engine.cancel(cancelled.id);
  engine.cancel(12345);
  EXPECT_EQ(cancelled.wait().end.reason, FinishReason::kCancelled);
  EXPECT_LT(cancelled.wait().tokens.size(), 900u);

  GenerationRequest late = request("In", 900);
  late.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(30);
  EXPECT_EQ(submit(engine, late).wait().end.reason, FinishReason::kTimedOut);
  engine.cancel(cancelled.id);  // it has ended: nothing happens
}

// Cancels another request at each of its own events.
class CancellingSink final : public GenerationSink {
 public:
  CancellingSink(Engine& engine, RequestId other) : engine_(engine), other_(other) {}
  void on_prompt(std::vector<TokenInfo>) override {}
  void on_token(GeneratedToken) override { engine_.cancel(other_); }
  void on_end(GenerationEnd) override { engine_.cancel(other_); }

 private:
  Engine& engine_;
  const RequestId other_;
};

TEST_P(EngineTest, ASinkMayCancel) {
  Engine engine(loaded_, tokenizer_.get(), small());
  const Handle other = submit(engine, request("In", 900));
  other.sink->wait_for_tokens(1);
  const auto sink = std::make_shared<CancellingSink>(engine, other.id);
  EXPECT_EQ(engine.submit(request("And", 3), sink).admission, Admission::kAccepted);
  EXPECT_EQ(other.wait().end.reason, FinishReason::kCancelled);
  engine.stop(std::chrono::seconds(20));
}

TEST_P(EngineTest, MoreThanTheMostRequestsAreRefused) {
  EngineOptions options = small();
  options.max_concurrent_requests = 2;
  Engine engine(loaded_, tokenizer_.get(), options);
  const Handle first = submit(engine, request("In", 900));
  const Handle second = submit(engine, request("In", 900));
  const auto refused = engine.submit(request("In", 1), std::make_shared<CollectingSink>());
  EXPECT_EQ(refused.admission, Admission::kOverloaded);
  engine.cancel(first.id);
  engine.cancel(second.id);
  first.wait();
  second.wait();
}

// Whoever floods the places, with streams that end by themselves or not: others get one, and all
// come back.
TEST_P(EngineTest, NoAdapterTakesAllPlaces) {
  EngineOptions options = small();
  options.max_concurrent_requests = 8;
  options.shares_places = true;
  Engine engine(loaded_, tokenizer_.get(), options);
  ASSERT_EQ(engine.limits().max_of_one_flow, 7);
  for (int round = 0; round < 3; ++round) {
    std::vector<Handle> flood;
    for (int i = 0; i < 7; ++i) flood.push_back(submit(engine, request("In", 900)));
    const auto refused = engine.submit(request("In", 1), std::make_shared<CollectingSink>());
    EXPECT_EQ(refused.admission, Admission::kOverloaded);
    EXPECT_GE(refused.retry_after, std::chrono::seconds(1));
    GenerationRequest other = request("In", 2);
    other.adapter = adapter("caps");
    EXPECT_EQ(submit(engine, std::move(other)).wait().end.reason, FinishReason::kLength);
    for (const Handle& handle : flood) engine.cancel(handle.id);
    for (const Handle& handle : flood) handle.wait();
    // A place is free a moment after its request's end has been told.
    for (int tries = 0; tries < 2000; ++tries) {
      const ServiceStats stats = engine.stats();
      if (stats.waiting + stats.running == 0) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
}

TEST_P(EngineTest, FiguresAreThoseThatClientsSee) {
  EngineOptions options = small();
  options.kv_blocks = 9;  // some are preempted
  options.max_total_tokens = 144;
  Engine engine(loaded_, tokenizer_.get(), options);
  std::vector<GenerationRequest> requests;
  for (int i = 0; i < 6; ++i) {
    requests.push_back(request(
        "The LORD is my shepherd; I shall not want. He maketh me to lie down in green pastures: he "
        "leadeth me beside the still waters.",
        80 + i, i % 3 == 2 ? adapter("caps") : ""));
  }
  std::vector<Collected> results = {submit(engine, requests[0]).wait()};
  // The last token's keys and values are never computed.
  const int64_t computed =
      results[0].end.prompt_tokens + static_cast<int64_t>(results[0].tokens.size()) - 1;
  EXPECT_TRUE(eventually([&] { return engine.stats().running == 0; }));
  EXPECT_EQ(engine.stats().kv_blocks_cached, computed / 16);
  for (Collected& result : run_together(engine, requests)) results.push_back(std::move(result));
  const Handle cancelled = submit(engine, requests[1]);
  cancelled.sink->wait_for_tokens(2);
  engine.cancel(cancelled.id);
  results.push_back(cancelled.wait());
  engine.stop(std::chrono::seconds(0));
  EXPECT_GT(engine.stats().preemptions, 0u);
  EXPECT_GT(engine.stats().prefix_tokens_hit, 0u);
  expect_at_rest(engine, results, true);
}

// The parts of a request's time lie one after the other within what its client waited.
TEST_P(EngineTest, PartsOfTheTimeAddUpToNoMoreThanTheWhole) {
  Engine engine(loaded_, tokenizer_.get(), small());
  for (int i = 0; i < 3; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const GenerationEnd end = submit(engine, request("The LORD is my shepherd;", 60)).wait().end;
    const auto waited = std::chrono::steady_clock::now() - start;
    EXPECT_GE(end.queue_time.count(), 0);
    EXPECT_GT(end.prefill_time.count(), 0);
    EXPECT_GT(end.decode_time.count(), 0);
    EXPECT_LE(end.queue_time + end.prefill_time + end.decode_time, waited);
  }
}

// Holds the engine's thread at its first token until it is let go.
class HoldingSink final : public GenerationSink {
 public:
  void on_prompt(std::vector<TokenInfo>) override {}
  void on_token(GeneratedToken) override {
    holding_ = true;
    EXPECT_TRUE(eventually([&] { return released_.load(); }));
  }
  void on_end(GenerationEnd end) override { reason_ = end.reason; }

  bool await() {
    return eventually([&] { return holding_.load(); });
  }
  void release() { released_ = true; }
  FinishReason reason() const { return reason_; }

 private:
  std::atomic<bool> holding_{false};
  std::atomic<bool> released_{false};
  std::atomic<FinishReason> reason_{FinishReason::kFailed};
};

// They were accepted, and the engine had no time to look at them.
TEST_P(EngineTest, RequestsThatArriveBeforeTheStopAreTold) {
  for (const bool has_grace : {false, true}) {
    Engine engine(loaded_, tokenizer_.get(), small());
    const auto holding = std::make_shared<HoldingSink>();
    ASSERT_EQ(engine.submit(request("In", 3), holding).admission, Admission::kAccepted);
    ASSERT_TRUE(holding->await());
    const Handle late = submit(engine, request("And", 4));
    std::thread stop([&] {
      engine.stop(has_grace ? std::chrono::milliseconds(kTestPatience)
                            : std::chrono::milliseconds(0));
    });
    EXPECT_TRUE(eventually([&] {
      const auto sink = std::make_shared<CollectingSink>();
      const auto answer = engine.submit(request("In", 1), sink);
      if (answer.admission == Admission::kAccepted) engine.cancel(answer.id);
      return answer.admission == Admission::kStopping;
    }));
    holding->release();
    stop.join();
    EXPECT_TRUE(late.sink->ended());
    const FinishReason expected = has_grace ? FinishReason::kLength : FinishReason::kCancelled;
    EXPECT_EQ(late.wait().end.reason, expected);
    EXPECT_EQ(holding->reason(), expected);
  }
}

TEST_P(EngineTest, StopLetsRequestsFinishWithinTheGrace) {
  auto engine = std::make_unique<Engine>(loaded_, tokenizer_.get(), small());
  const Handle quick = submit(*engine, request("In", 8));
  engine->stop(std::chrono::minutes(1));
  EXPECT_EQ(quick.wait().end.reason, FinishReason::kLength);
  const auto refused = engine->submit(request("In", 1), std::make_shared<CollectingSink>());
  EXPECT_EQ(refused.admission, Admission::kStopping);

  engine = std::make_unique<Engine>(loaded_, tokenizer_.get(), small());
  const Handle endless = submit(*engine, request("In", 900));
  endless.sink->wait_for_tokens(1);
  engine.reset();
  EXPECT_TRUE(endless.sink->ended());
  EXPECT_EQ(endless.wait().end.reason, FinishReason::kCancelled);
}

}  // namespace
}  // namespace lorax
