// The scheduler over the real adapter store and its threads.
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "adapters/store/adapter_store.h"
#include "adapters/store/testing/fake_adapter_backend.h"
#include "base/eventually.h"
#include "engine/load/store_adapter_exchange.h"
#include "scheduler_harness.h"

namespace lorax::sim {
namespace {

std::string name_of(int adapter) { return fmt::format("adapter-{}", adapter); }

class StoreSimTest : public ::testing::TestWithParam<bool> {};

INSTANTIATE_TEST_SUITE_P(Memory, StoreSimTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Unified" : "Separate"; });

TEST_P(StoreSimTest, ManyAdaptersInLittleMemory) {
  constexpr int kAdapters = 300;
  constexpr int kRequests = 2000;
  FakeAdapterBackend backend(120, 80, GetParam());
  for (int i = 0; i < kAdapters; ++i) {
    const uint64_t bytes = 1 + static_cast<uint64_t>(i * 7 % 30);
    backend.write(name_of(i), fmt::format("content {}", i), bytes, bytes);
  }
  backend.on_load = [](const std::string& id) {
    if (id.ends_with("3")) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    if (id.ends_with("77")) fail("{}: broken", id);
  };
  AdapterStore store(backend, {.host_budget = 120,
                               .device_budget = 80,
                               .unified_memory = GetParam(),
                               .slots = 8,
                               .on_settled = {}});
  StoreAdapterExchange exchange(store);
  SchedulerOptions options;
  options.blocks = 200;
  options.max_running = 16;
  options.step_tokens = 64;
  options.adapters.ahead = 4;
  std::map<FinishReason, int> reasons;
  {
    SchedulerHarness harness(options, exchange);
    std::mt19937 random(1);
    int issued = 0;
    const auto end = std::chrono::steady_clock::now() + 4 * kTestPatience;
    while (issued < kRequests || !harness.idle()) {
      ASSERT_LT(std::chrono::steady_clock::now(), end) << "requests never end";
      for (uint32_t i = random() % 4; i > 0 && issued < kRequests; --i, ++issued) {
        SchedulerHarness::Request request;
        // Some are asked for often, most seldom.
        const int adapter = static_cast<int>(random() % (random() % 2 == 0 ? 6 : kAdapters));
        request.adapter = random() % 8 == 0 ? "" : name_of(adapter);
        request.prompt.assign(1 + random() % 60, static_cast<int32_t>(random() % 3));
        request.max_new_tokens = 1 + static_cast<int64_t>(random() % 20);
        request.stops_after = request.max_new_tokens;
        harness.submit(request);
      }
      if (!harness.step()) {
        std::this_thread::yield();  // to the loaders
      } else if (random() % 50 == 0) {
        const std::vector<RequestId> ids = harness.live_ids();
        if (!ids.empty()) harness.cancel(ids[random() % ids.size()]);
      }
    }
    harness.check_at_rest();
    for (const auto& [id, ended] : harness.ended()) ++reasons[ended.reason];
    EXPECT_EQ(harness.ended().size(), static_cast<size_t>(kRequests));
  }
  EXPECT_GT(reasons[FinishReason::kLength], kRequests * 8 / 10);
  EXPECT_GT(reasons[FinishReason::kFailed], 0);
  store.shutdown();
  expect_at_rest(store.stats());
}

}  // namespace
}  // namespace lorax::sim
