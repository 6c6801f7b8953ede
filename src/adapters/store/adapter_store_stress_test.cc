// 2,000 adapters under a budget that holds about 100: a driver that behaves like the engine, two
// threads that behave like its neighbours, loads that fail, content that changes. The backend
// checks budgets, double loads and slots at every step; see fake_adapter_backend.h.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "adapters/store/adapter_store.h"
#include "adapters/store/testing/fake_adapter_backend.h"

namespace lorax {
namespace {

using State = AdapterTicket::State;

constexpr int kAdapters = 2000;
constexpr int kRequests = 12000;
constexpr int kRanks[] = {1, 4, 8, 16, 32, 64, 128};  // mean 36
constexpr uint64_t kBudget = 100 * 36;

class Traffic {
 public:
  Traffic(bool zipf, uint64_t seed) : random_(seed), zipf_(zipf) {
    double sum = 0;
    for (int i = 0; i < kAdapters; ++i) cumulative_.push_back(sum += 1.0 / (i + 1));
  }
  int below(int n) { return static_cast<int>(random_() % static_cast<uint64_t>(n)); }
  bool chance(double p) { return std::uniform_real_distribution<>(0, 1)(random_) < p; }
  int adapter() {
    if (!zipf_) return below(kAdapters);
    const double x = std::uniform_real_distribution<>(0, cumulative_.back())(random_);
    const auto it = std::lower_bound(cumulative_.begin(), cumulative_.end(), x);
    return static_cast<int>(it - cumulative_.begin());
  }

 private:
  std::mt19937_64 random_;
  const bool zipf_;
  std::vector<double> cumulative_;
};

std::string name_of(int adapter) { return fmt::format("adapter-{}", adapter); }

// Versions of an adapter differ in content and in size. Every tenth has a twin of equal content.
void write_version(FakeAdapterBackend& backend, int adapter, int version) {
  const int content = adapter % 10 == 1 ? adapter - 1 : adapter;
  const uint64_t rank = kRanks[(content * 31 + version) % std::size(kRanks)];
  backend.write(name_of(adapter), fmt::format("{}.{}", content, version), rank, rank);
}

// "17.3" belongs to adapter 17, or to its twin 18.
void expect_own_content(const std::string& digest, int adapter, int oldest_version) {
  const int content = adapter % 10 == 1 ? adapter - 1 : adapter;
  const size_t dot = digest.find('.');
  EXPECT_EQ(digest.substr(0, dot), std::to_string(content));
  EXPECT_GE(std::stoi(digest.substr(dot + 1)), oldest_version);
}

// Each request lives here until it has ended.
struct Running {
  int adapter = 0;
  int oldest = 0;  // the version that it must not come before
  AdapterTicket ticket;
  AdapterPin pin;
  std::string digest;
  int steps_left = 0;
};

struct Ends {
  int served = 0;
  int failed = 0;
  int withdrawn = 0;
};

class Engine {
 public:
  Engine(AdapterStore& store, FakeAdapterBackend& backend, Traffic& traffic)
      : store_(store),
        backend_(backend),
        traffic_(traffic),
        versions_(kAdapters, 0),
        promised_(kAdapters, 0) {}

  Ends run() {
    int issued = 0;
    const auto end = std::chrono::steady_clock::now() + 4 * kTestPatience;
    while (issued < kRequests || !running_.empty()) {
      if (std::chrono::steady_clock::now() > end) {
        ADD_FAILURE() << running_.size() << " requests never end";
        break;
      }
      for (int i = traffic_.below(8); i > 0 && issued < kRequests && running_.size() < 200; --i) {
        issue();
        ++issued;
      }
      step();
      check_books(store_.stats());
      if (traffic_.chance(0.1)) change_something();
    }
    return ends_;
  }

 private:
  void issue() {
    Running& request = running_.emplace_back();
    request.adapter = traffic_.adapter();
    request.oldest = promised_[request.adapter];
    request.ticket = store_.request(name_of(request.adapter));
  }

  void step() {
    bool moved = false;
    std::erase_if(running_, [&](Running& request) {
      const bool ended = advance(request);
      moved |= ended;
      return ended;
    });
    if (!moved) std::this_thread::yield();
  }

  bool advance(Running& request) {
    if (request.pin) {
      EXPECT_EQ(request.pin.digest(), request.digest);
      EXPECT_EQ(FakeAdapterBackend::digest_of(request.pin.adapter()), request.digest);
      ends_.served += request.steps_left == 0;
      return request.steps_left-- == 0;
    }
    const State state = request.ticket.state();
    if (state == State::kFailed) {
      const std::string& error = request.ticket.error();
      EXPECT_TRUE(error.ends_with(": broken") || error.ends_with("while they are read")) << error;
      EXPECT_NE(error.find(name_of(request.adapter)), std::string::npos) << error;
      ++ends_.failed;
      return true;
    }
    if (state != State::kReady) {
      const bool withdrawn = traffic_.chance(0.002);
      ends_.withdrawn += withdrawn;
      return withdrawn;
    }
    request.pin = request.ticket.try_pin();
    EXPECT_TRUE(request.pin);
    request.ticket = {};
    request.digest = request.pin.digest();
    expect_own_content(request.digest, request.adapter, request.oldest);
    request.steps_left = traffic_.below(12);
    return false;
  }

  void change_something() {
    const int adapter = traffic_.adapter();
    const int what = traffic_.below(4);
    if (what < 3) write_version(backend_, adapter, ++versions_[adapter]);
    if (what < 1) return;
    backend_.allow_two_reads(name_of(adapter));
    if (what == 2) {
      store_.forget(name_of(adapter));
    } else {
      store_.refresh(name_of(adapter));
    }
    promised_[adapter] = versions_[adapter];
  }

  AdapterStore& store_;
  FakeAdapterBackend& backend_;
  Traffic& traffic_;
  std::vector<int> versions_;
  std::vector<int> promised_;  // by refresh() and forget(): no request gets older ones
  std::deque<Running> running_;
  Ends ends_;
};

class AdapterStoreStressTest : public testing::TestWithParam<std::tuple<bool, bool>> {};

INSTANTIATE_TEST_SUITE_P(Orders, AdapterStoreStressTest,
                         testing::Combine(testing::Bool(), testing::Bool()), [](const auto& suite) {
                           return std::string(std::get<0>(suite.param) ? "Zipf" : "Uniform") +
                                  (std::get<1>(suite.param) ? "Unified" : "Separate");
                         });

TEST_P(AdapterStoreStressTest, ThousandsOfAdaptersUnderASmallBudget) {
  const bool zipf = std::get<0>(GetParam());
  const bool unified = std::get<1>(GetParam());
  FakeAdapterBackend backend(kBudget, kBudget, unified);
  for (int i = 0; i < kAdapters; ++i) write_version(backend, i, 0);
  std::atomic<uint32_t> turn = 0;
  backend.on_load = [&](const std::string& id) {
    const uint32_t hash = (++turn * 2654435761u) >> 16;
    if (hash % 16 == 0) std::this_thread::sleep_for(std::chrono::microseconds(hash % 512));
    if (hash % 10 == 1) fail("{}: broken", id);
  };
  {
    AdapterStore store(backend, {.host_budget = kBudget,
                                 .device_budget = kBudget,
                                 .unified_memory = unified,
                                 .slots = 90,
                                 .loader_threads = 4,
                                 .recheck_after = std::chrono::milliseconds(1),
                                 .on_settled = {}});
    std::atomic<bool> done = false;
    std::thread watcher([&] {
      while (!done) {
        check_books(store.stats());
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
    });
    std::thread neighbour([&] {  // asks, and rarely stays to see the answer
      Traffic own(zipf, 7);
      while (!done) {
        const AdapterTicket ticket = store.request(name_of(own.adapter()));
        if (own.chance(0.5)) store.wait(ticket);
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
    });
    Traffic traffic(zipf, 20240607);
    const Ends ends = Engine(store, backend, traffic).run();
    done = true;
    watcher.join();
    neighbour.join();
    EXPECT_EQ(ends.served + ends.failed + ends.withdrawn, kRequests);
    EXPECT_GT(ends.served, kRequests / 2);
    EXPECT_GT(ends.failed, 0);
    EXPECT_GT(ends.withdrawn, 0);

    store.shutdown();
    const AdapterStoreStats stats = store.stats();
    expect_at_rest(stats);
    EXPECT_EQ(stats.host.bytes, backend.host.live());
    EXPECT_EQ(stats.device.bytes, backend.device.live());
    EXPECT_EQ(stats.device.loads, static_cast<uint64_t>(backend.uploads));
    EXPECT_GT(stats.host.evictions, 0u);
    EXPECT_GT(stats.device.hits, 0u);
    EXPECT_GT(backend.host.peak(), kBudget * 9 / 10);
    RecordProperty("served", ends.served);
    RecordProperty("failed", ends.failed);
    RecordProperty("reads", backend.loads);
    RecordProperty("uploads", backend.uploads);
    RecordProperty("device_hits", static_cast<int>(stats.device.hits));
  }
  EXPECT_EQ(backend.host.live(), 0u);
  EXPECT_EQ(backend.device.live(), 0u);
}

}  // namespace
}  // namespace lorax
