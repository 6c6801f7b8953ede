// Thousands of adapters and requests of all kinds in too few pages and places: what the scheduler
// promises, at every step (scheduler_harness.h), and that every request ends.
#include <gtest/gtest.h>

#include <random>
#include <tuple>

#include "scheduler_harness.h"
#include "sim_adapters.h"

namespace lorax::sim {
namespace {

constexpr int kAdapters = 2000;
constexpr int kRequests = 1500;  // of one seed

class Traffic {
 public:
  explicit Traffic(uint64_t seed) : random_(seed) {
    double sum = 0;
    for (int i = 0; i < kAdapters; ++i) zipf_.push_back(sum += 1.0 / (i + 1));
  }
  int below(int n) { return static_cast<int>(random_() % static_cast<uint64_t>(n)); }
  bool chance(double p) { return std::uniform_real_distribution<>(0, 1)(random_) < p; }
  std::string adapter() {
    if (chance(0.2)) return "";
    const double x = std::uniform_real_distribution<>(0, zipf_.back())(random_);
    return fmt::format("adapter-{}", std::ranges::lower_bound(zipf_, x) - zipf_.begin());
  }
  // Few beginnings, so that many are equal.
  std::vector<int32_t> prompt(int most) {
    const int length = 1 + below(chance(0.1) ? most : most / 4);
    const int kind = below(4);
    std::vector<int32_t> tokens;
    for (int i = 0; i < length; ++i) tokens.push_back((i * kind) % 7);
    if (chance(0.5)) tokens.back() = 10 + below(1000);
    return tokens;
  }

 private:
  std::mt19937_64 random_;
  std::vector<double> zipf_;
};

struct Case {
  const char* name;
  SchedulerOptions options;
  int places;
  double arrivals;          // per step
  bool long_texts = false;  // of short prompts: all pages are taken by growing
};

SchedulerOptions options_of(int64_t blocks, int64_t running, int64_t tokens, bool chunked,
                            bool prefix_cache, int64_t crowd = 0) {
  SchedulerOptions options;
  options.block_size = 4;
  options.blocks = blocks;
  options.max_running = running;
  options.step_tokens = tokens;
  options.chunked_prefill = chunked;
  options.prefix_cache = prefix_cache;
  options.crowd = crowd;
  options.adapters.ahead = 4;
  options.adapters.slow_after = std::chrono::milliseconds(20);
  return options;
}

class SchedulerSimTest : public ::testing::TestWithParam<std::tuple<Case, bool>> {};

INSTANTIATE_TEST_SUITE_P(
    Cases, SchedulerSimTest,
    ::testing::Combine(
        ::testing::Values(Case{"Roomy", options_of(4000, 64, 256, true, true), 64, 2.0},
                          Case{"TinyPool", options_of(40, 16, 23, true, true), 8, 1.0},
                          Case{"TinyPoolNoCache", options_of(40, 16, 23, true, false), 8, 1.0},
                          Case{"Storm", options_of(60, 32, 64, true, true), 8, 3.0, true},
                          Case{"StormNoCache", options_of(60, 32, 64, true, false), 8, 3.0, true},
                          Case{"WholePrompts", options_of(64, 16, 176, false, true), 8, 1.0},
                          Case{"OneToken", options_of(40, 1, 1, true, true), 2, 0.1},
                          Case{"OnePlace", options_of(100, 32, 64, true, true), 1, 1.0},
                          Case{"Crowd", options_of(400, 32, 64, true, true, 4), 64, 1.0},
                          Case{"CrowdInTinyPool", options_of(40, 16, 23, true, true, 2), 8, 1.0},
                          Case{"CrowdOfWholePrompts", options_of(64, 16, 176, false, true, 4), 8,
                               1.0},
                          Case{"Flood", options_of(100, 32, 64, true, true), 4, 100.0}),
        ::testing::Bool()),
    [](const auto& info) {
      return std::string(std::get<0>(info.param).name) +
             (std::get<1>(info.param) ? "Overlapped" : "");
    });

TEST_P(SchedulerSimTest, EveryRequestEndsOnceAndAsItWouldAlone) {
  const Case& param = std::get<0>(GetParam());
  const bool overlaps = std::get<1>(GetParam());
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    Traffic traffic(seed);
    SimAdapters adapters(param.places);
    for (int i = 0; i < kAdapters; ++i) {
      const bool slow = i % 17 == 3;
      adapters.set_load(fmt::format("adapter-{}", i), slow ? 60 : i % 5, /*fails=*/i % 13 == 5);
    }
    SchedulerHarness harness(param.options, adapters, overlaps);
    const int most = static_cast<int>(std::min<int64_t>(160, param.options.blocks * 4)) / 2;
    int issued = 0;
    double due = 0;
    while (issued < kRequests || !harness.idle()) {
      for (due += param.arrivals; due >= 1 && issued < kRequests; --due, ++issued) {
        SchedulerHarness::Request request;
        request.adapter = traffic.adapter();
        request.prompt = traffic.prompt(param.long_texts ? 8 : most);
        const bool is_long = param.long_texts || traffic.chance(0.1);
        request.max_new_tokens = 1 + traffic.below(is_long ? most : most / 4);
        request.stops_after = 1 + traffic.below(static_cast<int>(request.max_new_tokens));
        if (traffic.chance(0.02)) request.discarded_after = 1;
        if (traffic.chance(0.01)) request.max_new_tokens = 100000;
        request.reuse_prefix = traffic.chance(0.9);
        if (traffic.chance(0.05)) {
          request.timeout = std::chrono::milliseconds(traffic.below(400));
        }
        harness.submit(request);
      }
      adapters.tick();
      harness.step();
      if (traffic.chance(0.01)) {
        const std::vector<RequestId> ids = harness.live_ids();
        if (!ids.empty()) {
          harness.cancel(ids[static_cast<size_t>(traffic.below(static_cast<int>(ids.size())))]);
        }
      }
      if (traffic.chance(0.02)) adapters.change(traffic.adapter());
      ASSERT_LT(harness.steps(), 200000) << "starvation";
    }
    std::map<FinishReason, int> reasons;
    int64_t preemptions = 0;
    for (const auto& [id, ended] : harness.ended()) {
      ++reasons[ended.reason];
      preemptions += ended.preemptions;
    }
    EXPECT_EQ(harness.ended().size(), static_cast<size_t>(kRequests));
    EXPECT_GT(reasons[FinishReason::kLength], kRequests / 8);
    EXPECT_GT(reasons[FinishReason::kFailed], 0);
    harness.check_at_rest();
    EXPECT_EQ(adapters.leases(), 0u);
    RecordProperty("preemptions", std::to_string(preemptions));
    RecordProperty("steps", std::to_string(harness.steps()));
    if (param.long_texts) {
      EXPECT_GT(preemptions, kRequests / 10);
    }
  }
}

// Nothing is kept of clients that have gone.
TEST(SchedulerSimTest, ClientsAreForgotten) {
  SimAdapters adapters(4);
  SchedulerHarness harness(options_of(1000, 16, 64, true, true), adapters);
  for (int i = 0; i < 3000; ++i) {
    harness.submit({.adapter = fmt::format("a{}", i),
                    .prompt = {1, 2, 3},
                    .max_new_tokens = 2,
                    .stops_after = 2});
    adapters.tick();
    harness.step();
  }
  harness.run_until_idle([&] { adapters.tick(); });
  harness.check_at_rest();
  EXPECT_LE(harness.scheduler().queue().known_clients(), 16u);
  EXPECT_EQ(harness.scheduler().adapters().leases(), 0u);
}

}  // namespace
}  // namespace lorax::sim
