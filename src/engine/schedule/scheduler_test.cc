// Single decisions of the scheduler; tests/sim has whole runs.
#include "engine/schedule/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <vector>

#include "base/check.h"
#include "engine/schedule/activation.h"
#include "engine/schedule/testing/fake_adapter_exchange.h"

namespace lorax {
namespace {

using State = AdapterLease::State;
using Work = std::map<RequestId, int64_t>;  // tokens of each request in a step
using std::chrono::milliseconds;

class SchedulerTest : public ::testing::Test {
 protected:
  void start(const SchedulerOptions& options) { scheduler_.emplace(options, adapters_); }
  static SchedulerOptions small() {
    SchedulerOptions options;
    options.block_size = 4;
    options.blocks = 32;
    options.max_running = 4;
    options.step_tokens = 10;
    return options;
  }

  RequestId submit(int64_t prompt, int64_t tokens, const std::string& adapter = "",
                   milliseconds timeout = milliseconds(-1)) {
    ScheduledRequest request;
    request.id = ++last_id_;
    request.adapter = adapter;
    for (int64_t i = 0; i < prompt; ++i) {
      request.prompt.push_back(static_cast<int32_t>(100 * last_id_ + static_cast<uint64_t>(i)));
    }
    if (!prompt_.empty()) request.prompt = prompt_;
    request.max_new_tokens = tokens;
    if (timeout.count() >= 0) request.deadline = now_ + timeout;
    scheduler_->submit(std::move(request), now_);
    return last_id_;
  }

  // Requests in `ends` end with this step.
  Work step(const std::vector<RequestId>& ends = {}) {
    now_ += milliseconds(1);
    const StepPlan& plan = scheduler_->schedule(now_);
    ended_ = plan.ended;
    Work work;
    std::vector<StepResult> results;
    for (const StepWork& entry : plan.work) {
      const RequestId id = entry.sequence->id;
      work[id] = entry.tokens;
      StepResult& result = results.emplace_back();
      if (std::ranges::find(ends, id) != ends.end()) {
        result.kind = StepResult::Kind::kEnded;
      } else if (entry.samples) {
        result.token = 1;
      }
    }
    if (!results.empty()) scheduler_->commit(results, now_);
    return work;
  }

  // The only request that runs.
  const ScheduledSequence& running() const {
    LORAX_CHECK(scheduler_->running().size() == 1);
    return *scheduler_->running()[0];
  }

  std::vector<int32_t> prompt_;  // of all requests, if there is one
  FakeAdapterExchange adapters_;
  std::optional<Scheduler> scheduler_;
  std::vector<EndedRequest> ended_;
  Scheduler::Time now_{};
  RequestId last_id_ = 0;
};

TEST(ActivationTest, TheLastPlaceOfTheWholeInvocationCounts) {
  const std::vector<int32_t> prompt = {1, 7, 8, 2, 7, 8, 7};
  EXPECT_EQ(activation_of(prompt, std::vector<int32_t>{7, 8}), 4);
  EXPECT_EQ(activation_of(prompt, std::vector<int32_t>{7}), 6);
  EXPECT_EQ(activation_of(prompt, std::vector<int32_t>{8, 7}), 5);
  EXPECT_EQ(activation_of(prompt, std::vector<int32_t>{1}), 0);
  EXPECT_EQ(activation_of(prompt, std::vector<int32_t>{7, 9}), kNeverActive);
  EXPECT_EQ(activation_of(std::vector<int32_t>{7}, std::vector<int32_t>{7, 8}), kNeverActive);
  EXPECT_EQ(activation_of(prompt, {}), 0);
}

// The base's pages serve an aLoRA up to its invocation, those behind it serve neither the base nor
// an invocation at another place; and what an aLoRA has computed before it serves the base.
TEST_F(SchedulerTest, AnALoraSharesTheBasesPagesUpToItsInvocation) {
  start(small());
  adapters_.states["a"] = State::kReady;
  adapters_.invocations["a"] = {50, 51};
  const std::vector<int32_t> invoked = {1, 2, 3, 4, 5, 6, 7, 8, 9, 50, 51, 12, 13, 14};
  const auto hit = [&](const std::vector<int32_t>& prompt, const std::string& adapter) {
    prompt_ = prompt;
    const RequestId id = submit(0, 9, adapter);
    step();
    const int64_t cached = running().cached_prompt_tokens;
    while (running().pending() > 1) step();
    step({id});
    return cached;
  };
  EXPECT_EQ(hit(invoked, ""), 0);
  EXPECT_EQ(hit(invoked, "a"), 8);   // not the page [9, 50, 51, 12], which the base has
  EXPECT_EQ(hit(invoked, "a"), 12);  // its own
  EXPECT_EQ(hit(invoked, ""), 12);   // the base's
  const std::vector<int32_t> twice = {1, 2, 3, 4, 5, 6, 7, 8, 9, 50, 51, 12, 13, 50, 51, 2, 3};
  EXPECT_EQ(hit(twice, "a"), 12);  // [9, 50, 51, 12] is the base's here
  EXPECT_EQ(hit({21, 22, 23, 24, 25, 26, 27, 28, 50, 51, 1, 2, 3}, "a"), 0);
  EXPECT_EQ(hit({21, 22, 23, 24, 25, 26, 27, 28, 50, 51, 1, 2, 3}, ""), 8);
}

// [50, 51, 1, 50] is computed anew where the invocation begins at its end, and not at its begin.
TEST_F(SchedulerTest, EqualPagesOfInvocationsAtOtherPlacesAreApart) {
  start(small());
  adapters_.states["a"] = State::kReady;
  adapters_.invocations["a"] = {50, 51};
  const std::vector<std::vector<int32_t>> prompts = {{50, 51, 1, 50, 51, 2}, {50, 51, 1, 50, 7, 2}};
  for (const std::vector<int32_t>& prompt : prompts) {
    prompt_ = prompt;
    const RequestId id = submit(0, 9, "a");
    step();
    EXPECT_EQ(running().cached_prompt_tokens, 0);
    step({id});
  }
}

TEST_F(SchedulerTest, AnALoraActsFromItsInvocationOnAlsoAfterAPreemption) {
  SchedulerOptions options = small();
  options.blocks = 5;
  start(options);
  adapters_.states["a"] = State::kReady;
  adapters_.invocations["a"] = {50};
  prompt_ = {1, 2, 50, 4, 50, 6, 7};
  submit(0, 9, "a");
  step();
  EXPECT_EQ(running().adapter_from, 4);
  prompt_ = {1, 2, 3, 4, 5, 6, 7};
  const RequestId without = submit(0, 9, "a");
  int64_t preemptions = 0;
  bool seen = false;
  for (int i = 0; i < 60 && !scheduler_->idle(); ++i) {
    now_ += milliseconds(1);
    const StepPlan& plan = scheduler_->schedule(now_);
    std::vector<StepResult> results;
    for (const StepWork& work : plan.work) {
      const bool is_second = work.sequence->id == without;
      EXPECT_EQ(work.sequence->adapter_from, is_second ? kNeverActive : 4);
      seen = seen || is_second;
      preemptions += work.preemptions;
      const bool ends = work.sequence->length() >= 14;
      results.push_back(
          {.kind = ends ? StepResult::Kind::kEnded : StepResult::Kind::kComputed, .token = {}});
      if (work.samples && !ends) results.back().token = 50;  // generated: it does not count
    }
    scheduler_->commit(results, now_);
  }
  EXPECT_TRUE(seen);
  EXPECT_GT(preemptions, 0);
}

TEST_F(SchedulerTest, LongPromptsAreCutAndTextsGoOnBesideThem) {
  start(small());
  const RequestId a = submit(3, 9);
  EXPECT_EQ(step(), (Work{{a, 3}}));
  const RequestId b = submit(20, 9);
  EXPECT_EQ(step(), (Work{{a, 1}, {b, 9}}));
  EXPECT_EQ(step(), (Work{{a, 1}, {b, 9}}));
  EXPECT_EQ(step(), (Work{{a, 1}, {b, 2}}));
  EXPECT_EQ(step(), (Work{{a, 1}, {b, 1}}));
}

TEST_F(SchedulerTest, WithoutChunksAPromptWaitsForRoomInAStep) {
  SchedulerOptions options = small();
  options.chunked_prefill = false;
  start(options);
  const RequestId a = submit(6, 9);
  const RequestId b = submit(5, 9);
  EXPECT_EQ(step(), (Work{{a, 6}}));
  EXPECT_EQ(step(), (Work{{a, 1}, {b, 5}}));
}

TEST_F(SchedulerTest, WhatCanNeverFitFailsAtOnce) {
  start(small());
  const RequestId fits = submit(100, 29);  // 32 pages: the last token needs no place
  const RequestId too_long = submit(100, 30);
  step();
  ASSERT_EQ(ended_.size(), 1u);
  EXPECT_EQ(ended_[0].id, too_long);
  EXPECT_EQ(ended_[0].failure, FailureKind::kRequest);
  EXPECT_TRUE(scheduler_->cancel(fits, now_).has_value());
  EXPECT_TRUE(scheduler_->idle());
}

TEST_F(SchedulerTest, TheYoungestIsPreemptedAndComesBackWithItsTokens) {
  SchedulerOptions options = small();
  options.blocks = 5;
  options.prefix_cache = false;
  options.step_tokens = 20;
  start(options);
  const RequestId a = submit(7, 12);  // two pages, and a third from its 9th token on
  const RequestId b = submit(4, 12);  // one page, and a second at once
  EXPECT_EQ(step(), (Work{{a, 7}, {b, 4}}));
  for (int i = 0; i < 4; ++i) EXPECT_EQ(step(), (Work{{a, 1}, {b, 1}}));
  // Both need a page, and one is left: a gets it.
  EXPECT_EQ(step(), (Work{{a, 1}}));
  EXPECT_EQ(scheduler_->stats().preemptions, 1u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(step(), (Work{{a, 1}}));
  // b comes back as soon as a has ended: prompt and five tokens.
  EXPECT_EQ(step({a}), (Work{{a, 1}}));
  EXPECT_EQ(step(), (Work{{b, 9}}));
  EXPECT_EQ(step({b}), (Work{{b, 1}}));
  EXPECT_TRUE(scheduler_->idle());
  EXPECT_EQ(scheduler_->allocator().free(), 5);
}

TEST_F(SchedulerTest, DeadlinesEndWhatWaitsAndWhatRuns) {
  SchedulerOptions options = small();
  options.max_running = 1;
  start(options);
  const RequestId runs = submit(3, 100, "", milliseconds(5));
  const RequestId waits = submit(3, 100, "", milliseconds(3));
  step();
  EXPECT_EQ(scheduler_->next_event(now_), Scheduler::Time() + milliseconds(3));
  step();
  step();
  ASSERT_EQ(ended_.size(), 1u);
  EXPECT_EQ(ended_[0].id, waits);
  EXPECT_EQ(ended_[0].reason, FinishReason::kTimedOut);
  step();
  EXPECT_EQ(step(), Work());
  ASSERT_EQ(ended_.size(), 1u);
  EXPECT_EQ(ended_[0].id, runs);
  EXPECT_TRUE(scheduler_->idle());
}

TEST_F(SchedulerTest, CancelFreesPagesAtOnce) {
  SchedulerOptions options = small();
  options.prefix_cache = false;
  start(options);
  const RequestId a = submit(8, 100);
  step();
  EXPECT_EQ(scheduler_->stats().blocks_used, 2);
  EXPECT_EQ(scheduler_->cancel(a, now_)->reason, FinishReason::kCancelled);
  EXPECT_EQ(scheduler_->stats().blocks_used, 0);
  EXPECT_FALSE(scheduler_->cancel(a, now_).has_value());
}

TEST_F(SchedulerTest, ALoadingAdapterHoldsUpNobodyElse) {
  start(small());
  const RequestId slow = submit(3, 9, "slow");
  const RequestId base = submit(3, 9);
  EXPECT_EQ(step(), (Work{{base, 3}}));
  adapters_.states["slow"] = State::kReady;
  EXPECT_EQ(step(), (Work{{base, 1}, {slow, 3}}));
  EXPECT_EQ(scheduler_->running()[0]->slot(), 7);
}

TEST_F(SchedulerTest, AFailedLoadFailsTheRequestsThatAskedForIt) {
  start(small());
  const RequestId a = submit(3, 9, "bad");
  const RequestId b = submit(3, 9, "bad");
  step();
  adapters_.states["bad"] = State::kFailed;
  const RequestId later = submit(3, 9, "bad");
  step();
  ASSERT_EQ(ended_.size(), 2u);
  EXPECT_EQ(ended_[0].id, a);
  EXPECT_EQ(ended_[1].id, b);
  EXPECT_EQ(ended_[1].failure, FailureKind::kAdapter);
  EXPECT_EQ(ended_[1].error, "bad is broken");
  adapters_.states["bad"] = State::kReady;  // it has been mended, and is asked for again
  EXPECT_EQ(step(), (Work{{later, 3}}));
}

TEST_F(SchedulerTest, ARequestKeepsItsAdapterAndLaterOnesAskAnew) {
  SchedulerOptions options = small();
  options.blocks = 8;
  start(options);
  adapters_.states["a"] = State::kReady;
  adapters_.digests["a"] = "old";
  const RequestId first = submit(3, 9, "a");
  step();
  adapters_.digests["a"] = "new";
  const RequestId second = submit(3, 9, "a");
  step();
  std::map<RequestId, std::string> digests;
  for (const ScheduledSequence* sequence : scheduler_->running()) {
    digests[sequence->id] = sequence->adapter->digest();
  }
  EXPECT_EQ(digests[first], "old");
  EXPECT_EQ(digests[second], "new");
  step({first, second});
  EXPECT_EQ(adapters_.leases["a"], 0);
}

TEST_F(SchedulerTest, LeasesLastAsLongAsTheirRequests) {
  start(small());
  adapters_.states["a"] = State::kReady;
  const RequestId a = submit(3, 9, "a");
  const RequestId b = submit(3, 9, "a");
  step();
  EXPECT_EQ(adapters_.leases["a"], 1);  // one for both
  step({a});
  EXPECT_EQ(adapters_.leases["a"], 1);
  scheduler_->cancel(b, now_);
  EXPECT_EQ(adapters_.leases["a"], 0);
  submit(3, 9, "a");
  scheduler_->end_all();
  EXPECT_EQ(adapters_.leases["a"], 0);
}

TEST_F(SchedulerTest, OnlyComputedPagesAreFoundAgain) {
  start(small());
  ScheduledRequest request;
  request.id = ++last_id_;
  request.prompt = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17};
  request.max_new_tokens = 4;
  scheduler_->submit(request, now_);
  step();                      // 10 of 17
  scheduler_->schedule(now_);  // the rest is planned,
  const StepResult discarded = {.kind = StepResult::Kind::kDiscarded, .token = {}};
  scheduler_->commit({&discarded, 1}, now_);  // but comes to nothing
  request.id = ++last_id_;
  scheduler_->submit(request, now_);
  EXPECT_EQ(step(), (Work{{last_id_, 9}}));  // two whole pages were computed
  EXPECT_EQ(scheduler_->running()[0]->cached_prompt_tokens, 8);
  request.id = ++last_id_;
  request.reuse_prefix = false;
  scheduler_->submit(request, now_);
  EXPECT_EQ(step()[last_id_], 9);
  EXPECT_EQ(scheduler_->running()[1]->cached_prompt_tokens, 0);
}

TEST_F(SchedulerTest, ACrowdMissesOneStepForAdaptersThatHaveNothingRunning) {
  SchedulerOptions options = small();
  options.max_running = 8;
  options.step_tokens = 20;
  options.crowd = 3;
  start(options);
  for (const char* adapter : {"x", "y", "z"}) adapters_.states[adapter] = State::kReady;
  const RequestId a = submit(2, 9);
  const RequestId b = submit(2, 9);
  step();
  const RequestId x = submit(1, 9, "x");
  EXPECT_EQ(step(), (Work{{a, 1}, {b, 1}, {x, 1}}));  // two are no crowd
  const RequestId y = submit(2, 9, "y");
  const RequestId z = submit(1, 9, "z");
  EXPECT_EQ(step(), (Work{{y, 2}, {z, 1}}));
  // Theirs is no longer the adapters' first, and the next step is everybody's.
  const RequestId more = submit(1, 9, "y");
  EXPECT_EQ(step({y, z}), (Work{{a, 1}, {b, 1}, {x, 1}, {y, 1}, {z, 1}, {more, 1}}));
  step({more});
  const RequestId first = submit(2, 9, "z");
  const RequestId second = submit(2, 9, "y");
  EXPECT_EQ(step(), (Work{{first, 2}}));  // both would be more than the crowd
  EXPECT_EQ(step(), (Work{{a, 1}, {b, 1}, {x, 1}, {first, 1}, {second, 2}}));
  const RequestId late = submit(5, 9, "w");
  adapters_.states["w"] = State::kReady;
  EXPECT_EQ(step()[late], 5);  // more rows than the crowd's: beside it
}

TEST_F(SchedulerTest, NewcomersNeverTakeTwoStepsInARow) {
  SchedulerOptions options = small();
  options.crowd = 1;
  start(options);
  const RequestId a = submit(2, 9);
  step();
  for (const char* adapter : {"x", "y"}) adapters_.states[adapter] = State::kReady;
  const RequestId x = submit(1, 9, "x");
  EXPECT_EQ(step(), (Work{{x, 1}}));
  const RequestId y = submit(1, 9, "y");
  EXPECT_EQ(step(), (Work{{a, 1}, {x, 1}, {y, 1}}));
}

// What a step gave, all tokens `token`; requests in `ends` end.
std::vector<StepResult> results_of(const StepPlan& plan, int32_t token,
                                   const std::vector<RequestId>& ends = {}) {
  std::vector<StepResult> results;
  for (const StepWork& work : plan.work) {
    StepResult& result = results.emplace_back();
    if (std::ranges::find(ends, work.sequence->id) != ends.end()) {
      result.kind = StepResult::Kind::kEnded;
    } else if (work.samples) {
      result.token = token;
    }
  }
  return results;
}

TEST_F(SchedulerTest, AStepIsPlannedBeforeTheTokensOfTheOneInFront) {
  start(small());
  submit(3, 9);
  const StepPlan& first = scheduler_->schedule(now_);
  const StepPlan& second = scheduler_->schedule(now_);
  ASSERT_EQ(second.work.size(), 1u);
  const ScheduledSequence& sequence = *second.work[0].sequence;
  EXPECT_EQ(first.work[0].begin, 0);
  EXPECT_EQ(first.work[0].tokens, 3);
  EXPECT_EQ(second.work[0].begin, 3);
  EXPECT_EQ(second.work[0].tokens, 1);
  EXPECT_EQ(sequence.tokens.back(), kUnknownToken);
  scheduler_->commit(results_of(first, 42), now_);
  EXPECT_EQ(sequence.tokens.back(), 42);
  const StepPlan& third = scheduler_->schedule(now_);
  EXPECT_EQ(third.work[0].begin, 4);
  scheduler_->commit(results_of(second, 43), now_);
  EXPECT_EQ(sequence.tokens[4], 43);
  EXPECT_EQ(sequence.length(), 5);
}

TEST_F(SchedulerTest, ARequestWithAllItsTokensIsNotPlannedAgainAndMakesRoom) {
  SchedulerOptions options = small();
  options.max_running = 1;
  start(options);
  const RequestId a = submit(3, 1);
  const RequestId b = submit(3, 9);
  const StepPlan& first = scheduler_->schedule(now_);
  ASSERT_EQ(first.work.size(), 1u);
  const StepPlan& second = scheduler_->schedule(now_);
  ASSERT_EQ(second.work.size(), 1u);
  EXPECT_EQ(second.work[0].sequence->id, b);
  EXPECT_EQ(scheduler_->leaving().size(), 1u);
  EXPECT_EQ(scheduler_->stats().running, 2);
  scheduler_->commit(results_of(first, 1, {a}), now_);
  EXPECT_TRUE(scheduler_->leaving().empty());
}

TEST_F(SchedulerTest, PagesAndAdapterAreHeldForAStepThatIsLost) {
  SchedulerOptions options = small();
  options.prefix_cache = false;
  start(options);
  adapters_.states["a"] = State::kReady;
  const RequestId ends = submit(3, 9, "a");
  const RequestId cancelled = submit(3, 9, "a");
  const StepPlan& first = scheduler_->schedule(now_);
  const StepPlan& second = scheduler_->schedule(now_);
  ASSERT_EQ(second.work.size(), 2u);
  EXPECT_TRUE(scheduler_->cancel(cancelled, now_).has_value());
  scheduler_->commit(results_of(first, 1, {ends}), now_);
  EXPECT_TRUE(scheduler_->idle());
  EXPECT_EQ(adapters_.leases["a"], 1);
  EXPECT_EQ(scheduler_->leaving().size(), 2u);
  EXPECT_EQ(scheduler_->stats().blocks_used, 2);
  for (const StepWork& work : second.work) EXPECT_TRUE(work.sequence->ended);
  EXPECT_TRUE(scheduler_->schedule(now_).work.empty());
  scheduler_->commit(std::vector<StepResult>(2), now_);
  EXPECT_EQ(adapters_.leases["a"], 0);
  EXPECT_EQ(scheduler_->stats().blocks_used, 0);
}

TEST_F(SchedulerTest, PagesOfAPreemptedRequestAreNotRegisteredByTheStepItWasIn) {
  SchedulerOptions options = small();
  options.blocks = 3;
  start(options);
  const RequestId a = submit(4, 8);
  const RequestId b = submit(4, 8);
  const StepPlan& first = scheduler_->schedule(now_);
  ASSERT_EQ(first.work.size(), 2u);
  // Both need a page for their next token, and one is left.
  const StepPlan& second = scheduler_->schedule(now_);
  ASSERT_EQ(second.work.size(), 1u);
  EXPECT_EQ(second.work[0].sequence->id, a);
  scheduler_->commit(results_of(first, 1), now_);
  EXPECT_EQ(scheduler_->stats().blocks_cached, 0);
  const ScheduledSequence& preempted = *first.work[1].sequence;
  EXPECT_EQ(preempted.id, b);
  EXPECT_EQ(preempted.tokens.back(), 1);  // its token is kept
  EXPECT_EQ(preempted.cached, 0);
}

TEST_F(SchedulerTest, EndAllWorksInTheMiddleOfAStep) {
  start(small());
  const RequestId a = submit(3, 9);
  const RequestId b = submit(300, 9);  // can never fit
  const RequestId c = submit(3, 9, "loading");
  scheduler_->schedule(now_);
  std::vector<EndedRequest> ended = scheduler_->end_all();
  ASSERT_EQ(ended.size(), 2u);  // b was in the plan
  EXPECT_EQ(ended[0].id, a);
  EXPECT_EQ(ended[1].id, c);
  EXPECT_NE(b, c);
  EXPECT_TRUE(scheduler_->idle());
  EXPECT_EQ(scheduler_->stats().blocks_used, 0);
  EXPECT_EQ(step(), Work());
}

TEST_F(SchedulerTest, PagesAreSharedWithinAScopeAlone) {
  SchedulerOptions options = small();
  options.blocks = 100;
  start(options);
  const auto cached = [&](const std::string& scope) {
    ScheduledRequest request;
    request.id = ++last_id_;
    request.cache_scope = scope;
    request.prompt.assign(9, 7);
    request.max_new_tokens = 2;
    scheduler_->submit(request, now_);
    step();
    const int64_t tokens = scheduler_->running().at(0)->cached_prompt_tokens;
    scheduler_->cancel(last_id_, now_);
    step();
    return tokens;
  };
  for (const char* scope : {"", "alice", "bob", "alice\n"}) EXPECT_EQ(cached(scope), 0) << scope;
  for (const char* scope : {"", "alice", "bob", "alice\n"}) EXPECT_EQ(cached(scope), 8) << scope;
}

// A flow that has all places, whatever adapters it has them with, yields one to another flow.
TEST_F(SchedulerTest, AFlowYieldsPlacesToAnother) {
  SchedulerOptions options = small();
  options.prefix_cache = false;
  start(options);
  const auto send = [&](const std::string& flow, const std::string& adapter) {
    adapters_.states[adapter] = State::kReady;
    ScheduledRequest request;
    request.id = ++last_id_;
    request.flow = flow;
    request.adapter = adapter;
    request.prompt = {1, 2};
    request.max_new_tokens = 40;
    scheduler_->submit(request, now_);
    return last_id_;
  };
  for (const char* adapter : {"a", "b", "c", "d", "e"}) send("alice", adapter);
  step();
  step();
  EXPECT_EQ(scheduler_->running().size(), 4u);
  const RequestId other = send("bob", "a");
  bool runs = false;
  for (int i = 0; i < 40 && !runs; ++i) {
    step();
    runs = std::ranges::any_of(scheduler_->running(),
                               [&](const auto* sequence) { return sequence->id == other; });
  }
  EXPECT_TRUE(runs);
}

}  // namespace
}  // namespace lorax
