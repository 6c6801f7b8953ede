// Fairness between adapters, and that none holds up another.
#include <gtest/gtest.h>

#include <cstdlib>

#include "scheduler_harness.h"
#include "sim_adapters.h"

namespace lorax::sim {
namespace {

SchedulerOptions options_of(int64_t running) {
  SchedulerOptions options;
  options.block_size = 16;
  options.blocks = 4000;
  options.max_running = running;
  options.step_tokens = 4 * running;
  return options;
}

SchedulerHarness::Request request_of(const std::string& adapter, int64_t prompt, int64_t tokens) {
  static int32_t unique = 0;  // no prefix is shared
  SchedulerHarness::Request request;
  request.adapter = adapter;
  request.prompt.assign(static_cast<size_t>(prompt), 1);
  request.prompt.front() = ++unique;
  request.max_new_tokens = tokens;
  request.stops_after = tokens;
  return request;
}

// Two adapters that always have requests waiting, one with short prompts and long texts, the other
// the other way round. The bound of the paper: twice the larger of one request's input and what the
// sequences in flight take.
TEST(FairnessSimTest, BackloggedAdaptersGetTheSameService) {
  SimAdapters adapters(4);
  const SchedulerOptions options = options_of(16);
  SchedulerHarness harness(options, adapters);
  int64_t worst = 0;
  int64_t start_a = 0;
  int64_t start_b = 0;
  for (int step = 0; step < 6000; ++step) {
    const auto waiting = [&](const std::string& adapter) {
      return std::ranges::count_if(harness.live(), [&](const auto& entry) {
        return entry.second.request.adapter == adapter;
      });
    };
    while (waiting("a") < 40) harness.submit(request_of("a", 8, 60));
    while (waiting("b") < 40) harness.submit(request_of("b", 200, 4));
    harness.step();
    if (step == 200) start_a = harness.service("a");
    if (step == 200) start_b = harness.service("b");
    if (step < 200) continue;
    const int64_t a = harness.service("a") - start_a;
    const int64_t b = harness.service("b") - start_b;
    worst = std::max(worst, std::abs(a - b));
  }
  const int64_t in_flight = options.max_running * 60 * options.output_weight;
  EXPECT_LE(worst, 2 * in_flight);
  EXPECT_GT(harness.service("a"), 20 * in_flight);  // the bound means something
  EXPECT_GT(harness.service("b"), 20 * in_flight);
  harness.end_all();
  harness.check_at_rest();
}

// 500 long requests of one adapter wait; single ones of another come now and then.
TEST(FairnessSimTest, AFloodDoesNotHoldUpOthers) {
  for (bool prefix_cache : {true, false}) {
    SimAdapters adapters(4);
    SchedulerOptions options = options_of(32);
    options.prefix_cache = prefix_cache;
    SchedulerHarness harness(options, adapters);
    for (int i = 0; i < 500; ++i) harness.submit(request_of("a", 40, 100));
    std::vector<RequestId> singles;
    for (int step = 0; step < 600; ++step) {
      if (step % 20 == 19) singles.push_back(harness.submit(request_of("b", 40, 5)));
      harness.step();
    }
    harness.run_until_idle();
    harness.check_at_rest();
    for (RequestId id : singles) {
      const SchedulerHarness::Ended& ended = harness.ended().at(id);
      EXPECT_EQ(ended.first_token_step - ended.submitted_step, 1);
      EXPECT_LE(ended.ended_step - ended.submitted_step, 12);
    }
  }
}

// Where steps without the crowd are allowed, the single ones' first token is that of the next step,
// whatever the flood does; and nobody of the crowd, single ones included, waits for longer than one
// such step between two tokens, though newcomers come all the time.
TEST(FairnessSimTest, NewcomersOvertakeACrowdAndDoNotStallIt) {
  for (int64_t crowd : {0, 8}) {
    SimAdapters adapters(2000);
    SchedulerOptions options = options_of(32);
    options.crowd = crowd;
    SchedulerHarness harness(options, adapters);
    for (int i = 0; i < 200; ++i) harness.submit(request_of("a", 40, 100));
    std::vector<RequestId> newcomers;
    for (int step = 0; step < 600; ++step) {
      // At first some, then a new one at every step.
      const int every = step < 300 ? 10 : 1;
      if (step >= 20 && step % every == 0) {
        newcomers.push_back(harness.submit(request_of(fmt::format("b{}", step), 12, 6)));
      }
      harness.step();
    }
    harness.run_until_idle();
    harness.check_at_rest();
    for (RequestId id : newcomers) {
      const SchedulerHarness::Ended& ended = harness.ended().at(id);
      const int64_t wait = ended.first_token_step - ended.submitted_step;
      EXPECT_LE(wait, ended.submitted_step < 300 ? 1 : 40);
    }
    int64_t misses = 0;
    for (const auto& [id, ended] : harness.ended()) {
      if (ended.preemptions > 0) continue;
      EXPECT_LE(ended.longest_gap, crowd > 0 ? 2 : 1);
      misses += ended.longest_gap > 1 ? 1 : 0;
    }
    EXPECT_EQ(misses > 0, crowd > 0);
  }
}

// The same, where the pages run out before the places do.
TEST(FairnessSimTest, AFloodThatTakesAllPagesDoesNotPreemptOthers) {
  SimAdapters adapters(4);
  SchedulerOptions options = options_of(32);
  options.blocks = 120;
  SchedulerHarness harness(options, adapters);
  for (int i = 0; i < 200; ++i) harness.submit(request_of("a", 20, 100));
  std::vector<RequestId> singles;
  for (int step = 0; step < 600; ++step) {
    if (step % 20 == 19) singles.push_back(harness.submit(request_of("b", 20, 30)));
    harness.step();
  }
  harness.run_until_idle();
  harness.check_at_rest();
  int64_t preempted = 0;
  for (RequestId id : singles) preempted += harness.ended().at(id).preemptions;
  EXPECT_EQ(preempted, 0);
  EXPECT_GT(harness.scheduler().stats().preemptions, 10u);
}

TEST(FairnessSimTest, SlowAndBrokenAdaptersHoldUpNobody) {
  SimAdapters adapters(64);
  SchedulerHarness harness(options_of(32), adapters);
  for (int i = 0; i < 30; ++i) {
    adapters.set_load(fmt::format("slow-{}", i), 100000);
    harness.submit(request_of(fmt::format("slow-{}", i), 10, 10));
    adapters.set_load(fmt::format("broken-{}", i), 3, /*fails=*/true);
  }
  std::vector<RequestId> broken;
  for (int i = 0; i < 30; ++i) {
    broken.push_back(harness.submit(request_of(fmt::format("broken-{}", i), 10, 10)));
  }
  const RequestId good = harness.submit(request_of("good", 10, 10));
  const RequestId base = harness.submit(request_of("", 10, 10));
  for (int step = 0; step < 2600; ++step) {
    adapters.tick();
    harness.step();
  }
  EXPECT_LE(harness.ended().at(base).ended_step, 12);
  EXPECT_EQ(harness.ended().at(good).reason, FinishReason::kLength);
  for (RequestId id : broken) {
    EXPECT_EQ(harness.ended().at(id).failure, FailureKind::kAdapter);
  }
  EXPECT_EQ(harness.live().size(), 30u);
  harness.end_all();
  harness.check_at_rest();
}

// Two adapters are always in use, and there is no place for a third until one of them drains.
TEST(FairnessSimTest, AnAdapterWithoutRoomGetsSomeInTheEnd) {
  SimAdapters adapters(2);
  SchedulerHarness harness(options_of(16), adapters);
  std::vector<RequestId> third;
  for (int step = 0; step < 3000; ++step) {
    for (const char* adapter : {"a", "b"}) {
      const auto count = std::ranges::count_if(harness.live(), [&](const auto& entry) {
        return entry.second.request.adapter == adapter;
      });
      if (count < 20) harness.submit(request_of(adapter, 20, 20 + step % 7));
    }
    if (step % 300 == 100) third.push_back(harness.submit(request_of("c", 20, 5)));
    adapters.tick();
    harness.step();
  }
  ASSERT_EQ(third.size(), 10u);
  for (RequestId id : third) {
    ASSERT_TRUE(harness.ended().contains(id));
    const SchedulerHarness::Ended& ended = harness.ended().at(id);
    EXPECT_LE(ended.ended_step - ended.submitted_step, 120);
  }
  harness.end_all();
  harness.check_at_rest();
}

// Where one adapter is alone, its counter is what it has been given: each token once, however often
// it is computed anew.
TEST(FairnessSimTest, AnAdapterPaysOnceForEachToken) {
  for (const bool overlaps : {false, true}) {
    for (const bool prefix_cache : {false, true}) {
      SimAdapters adapters(1);
      SchedulerOptions options = options_of(16);
      options.blocks = 30;
      options.prefix_cache = prefix_cache;
      options.input_weight = 3;
      SchedulerHarness harness(options, adapters, overlaps);
      for (int i = 0; i < 60; ++i) harness.submit(request_of("a", 20 + i, 60));
      int64_t compared = 0;
      harness.run_until_idle([&] {
        const auto& running = harness.scheduler().running();
        if (running.empty()) return;
        EXPECT_EQ(running[0]->client->counter(), harness.service("a"));
        ++compared;
      });
      harness.check_at_rest();
      EXPECT_GT(compared, 100);
      EXPECT_GT(harness.scheduler().stats().preemptions, 10u);
    }
  }
}

// Few leases are held ahead, however many adapters have requests waiting.
TEST(FairnessSimTest, FewAdaptersAreLoadedAhead) {
  SimAdapters adapters(1000);
  SchedulerOptions options = options_of(2);
  options.step_tokens = 2;
  options.adapters.ahead = 5;
  SchedulerHarness harness(options, adapters);
  for (int i = 0; i < 300; ++i) harness.submit(request_of(fmt::format("a{}", i), 4, 4));
  harness.run_until_idle([&] {
    EXPECT_LE(adapters.leases(), 5u + 2u + 2u);
    adapters.tick();
  });
  harness.check_at_rest();
}

}  // namespace
}  // namespace lorax::sim
