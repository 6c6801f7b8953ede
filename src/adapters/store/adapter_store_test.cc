#include "adapters/store/adapter_store.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "adapters/store/testing/fake_adapter_backend.h"
#include "base/eventually.h"

namespace lorax {
namespace {

using State = AdapterTicket::State;

// Room for four adapters of 10 bytes (and the slack of a load) in each tier.
AdapterStoreOptions four_adapters(bool unified) {
  return {.host_budget = 41,
          .device_budget = 40,
          .unified_memory = unified,
          .slots = 8,
          .loader_threads = 2,
          .recheck_after = std::chrono::milliseconds(0),
          .on_settled = {}};
}

// Both kinds of memory.
class AdapterStoreTest : public testing::TestWithParam<bool> {
 protected:
  AdapterStoreTest() {
    for (const char* id : {"a", "b", "c", "d", "e", "f"}) backend.write(id, id, 10, 10);
  }
  ~AdapterStoreTest() override {
    EXPECT_EQ(backend.host.live(), 0u);
    EXPECT_EQ(backend.device.live(), 0u);
  }

  bool unified() const { return GetParam(); }
  AdapterStoreOptions options() const { return four_adapters(unified()); }

  FakeAdapterBackend backend{41, 40, GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Memory, AdapterStoreTest, testing::Bool(), [](const auto& memory) {
  return std::string(memory.param ? "Unified" : "Separate");
});

State settled(AdapterStore& store, const AdapterTicket& ticket) {
  store.wait(ticket);
  return ticket.state();
}

TEST_P(AdapterStoreTest, LoadsOnceThenHits) {
  AdapterStore store(backend, options());
  AdapterTicket ticket = store.request("a");
  ASSERT_EQ(settled(store, ticket), State::kReady);
  AdapterPin pin = ticket.try_pin();
  ASSERT_TRUE(pin);
  EXPECT_EQ(pin.digest(), "a");
  EXPECT_EQ(FakeAdapterBackend::digest_of(pin.adapter()), "a");
  EXPECT_EQ(pin.slot(), 0);
  ticket = {};
  EXPECT_EQ(settled(store, ticket = store.request("a")), State::kReady);

  const AdapterStoreStats stats = store.stats();
  EXPECT_EQ(stats.requests, 2u);
  EXPECT_EQ(stats.host.loads, 1u);
  EXPECT_EQ(stats.device.loads, 1u);
  EXPECT_EQ(stats.device.hits, 1u);
  EXPECT_EQ(stats.host.bytes, 10u);  // exact: what the probe announced too much is free again
  EXPECT_EQ(stats.device.bytes, unified() ? 0u : 10u);
  EXPECT_EQ(stats.slots_used, 1);
  EXPECT_EQ(stats.pins, 1u);
  EXPECT_EQ(stats.tickets, 1u);
  EXPECT_EQ(backend.loads, 1);
}

TEST_P(AdapterStoreTest, AskingAheadLoadsWhatIsMissingAndNothingElse) {
  AdapterStore store(backend, options());
  AdapterTicket ahead = store.request_ahead("a");
  ASSERT_TRUE(ahead);
  EXPECT_EQ(settled(store, ahead), State::kReady);
  EXPECT_FALSE(store.request_ahead("a"));
  EXPECT_EQ(store.stats().device.hits, 0u);
  EXPECT_EQ(store.stats().device.loads, 1u);
  // Whoever asks finds it there.
  AdapterTicket ticket = store.request("a");
  ahead.reset();
  EXPECT_EQ(settled(store, ticket), State::kReady);
  EXPECT_EQ(store.stats().device.loads, 1u);
  store.refresh("a");
  EXPECT_TRUE(store.request_ahead("a"));
}

TEST_P(AdapterStoreTest, FreshNameIsReadyAtOnceWithoutLooking) {
  AdapterStoreOptions options = this->options();
  options.recheck_after = std::chrono::hours(1);
  AdapterStore store(backend, options);
  store.load_now({"a"});
  backend.write("a", "a2", 10, 10);
  AdapterTicket ticket = store.request("a");
  ASSERT_EQ(ticket.state(), State::kReady);
  EXPECT_EQ(ticket.try_pin().digest(), "a");
  store.refresh("a");
  ASSERT_EQ(settled(store, ticket = store.request("a")), State::kReady);
  EXPECT_EQ(ticket.try_pin().digest(), "a2");
}

TEST_P(AdapterStoreTest, RequestsForOneColdAdapterShareOneLoad) {
  Gate gate;
  backend.on_load = [&](const std::string&) { gate.pass(); };
  AdapterStore store(backend, options());
  std::vector<AdapterTicket> tickets;
  tickets.push_back(store.request("a"));
  gate.await_arrivals(1);
  for (int i = 0; i < 9; ++i) tickets.push_back(store.request("a"));
  for (const AdapterTicket& ticket : tickets) {
    EXPECT_EQ(ticket.state(), State::kLoading);
    EXPECT_FALSE(ticket.try_pin());
  }
  gate.open();
  for (const AdapterTicket& ticket : tickets) EXPECT_EQ(settled(store, ticket), State::kReady);
  EXPECT_EQ(backend.loads, 1);
  EXPECT_EQ(backend.uploads, 1);
  EXPECT_EQ(store.stats().joined, 9u);
}

TEST_P(AdapterStoreTest, LeastRecentlyUsedGivesWay) {
  AdapterStore store(backend, options());
  for (const char* id : {"a", "b", "c", "d", "a", "e"}) store.load_now({id});
  EXPECT_EQ(backend.loads, 5);
  EXPECT_EQ(store.stats().host.evictions, 1u);
  for (const char* id : {"a", "c", "d", "e"}) store.load_now({id});
  EXPECT_EQ(backend.loads, 5) << "only b should have been evicted";
  store.load_now({"b"});
  EXPECT_EQ(backend.loads, 6);
}

TEST_P(AdapterStoreTest, PinnedAdaptersStayAndOthersWaitForRoom) {
  AdapterStore store(backend, options());
  std::vector<AdapterPin> pins = store.load_now({"a", "b", "c", "d"});
  AdapterTicket ticket = store.request("e");
  EXPECT_TRUE(eventually([&] { return ticket.state() == State::kNoRoom; }));
  EXPECT_FALSE(ticket.try_pin());
  pins[2].reset();
  ASSERT_EQ(settled(store, ticket), State::kReady);
  AdapterPin e = ticket.try_pin();
  EXPECT_EQ(e.digest(), "e");
  EXPECT_EQ(pins[0].digest(), "a");
  EXPECT_EQ(store.stats().device.evictions, 1u);
  EXPECT_EQ(store.stats().slots_used, 4);
}

TEST_P(AdapterStoreTest, ReadyTicketHoldsItsAdapter) {
  AdapterStore store(backend, options());
  AdapterTicket a = store.request("a");
  ASSERT_EQ(settled(store, a), State::kReady);
  for (const char* id : {"b", "c", "d", "e", "f"}) store.load_now({id});
  EXPECT_EQ(a.try_pin().digest(), "a");
}

TEST_P(AdapterStoreTest, SlotsAreAResourceToo) {
  AdapterStoreOptions options = this->options();
  options.slots = 2;
  AdapterStore store(backend, options);
  std::vector<AdapterPin> pins = store.load_now({"a", "b"});
  AdapterTicket ticket = store.request("c");
  EXPECT_TRUE(eventually([&] { return ticket.state() == State::kNoRoom; }));
  const int slot = pins[0].slot();
  pins[0].reset();
  ASSERT_EQ(settled(store, ticket), State::kReady);
  EXPECT_EQ(ticket.try_pin().slot(), slot);
  ticket = {};
  // The host copies have stayed: what lost its slot comes back without being read.
  store.load_now({"a"});
  EXPECT_EQ(backend.loads, 3);
  EXPECT_EQ(backend.uploads, 4);
  EXPECT_EQ(store.stats().host.hits, 1u);
}

// A large adapter waits for room; where memory is separate it waits for the device, with its copy
// in host memory.
TEST_P(AdapterStoreTest, SmallAdaptersPassALargeOneThatWaitsButDoNotStarveIt) {
  constexpr int kPasses = 64;
  FakeAdapterBackend backend(unified() ? 41 : 100, 40, unified());
  AdapterStoreOptions options = this->options();
  if (!unified()) options.host_budget = 100;
  const auto small = [&](int i) {
    const std::string id = fmt::format("small{}", i);
    backend.write(id, id, 10, 10);
    return id;
  };
  backend.write("large", "large", 40, 40);
  AdapterStore store(backend, options);
  AdapterPin pin = std::move(store.load_now({small(0)})[0]);
  AdapterTicket large = store.request("large");
  EXPECT_TRUE(eventually([&] { return large.state() == State::kNoRoom; }));
  // One or two of the small ones are pinned at any time: the large one never fits.
  for (int i = 1; i <= kPasses; ++i) pin = std::move(store.load_now({small(i)})[0]);
  AdapterTicket next = store.request(small(kPasses + 1));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(next.state(), State::kLoading);
  pin.reset();
  ASSERT_EQ(settled(store, large), State::kReady);
  large = {};
  EXPECT_EQ(settled(store, next), State::kReady);
}

TEST_P(AdapterStoreTest, TooLargeForTheBudgetFailsWithTheNumbers) {
  backend.write("huge", "huge", 100, 10);
  AdapterStore store(backend, options());
  AdapterTicket ticket = store.request("huge");
  ASSERT_EQ(settled(store, ticket), State::kFailed);
  EXPECT_EQ(ticket.error(),
            "adapter 'huge' needs 101 bytes of host memory, more than all that adapters may take "
            "(41 bytes)");
  if (unified()) return;
  backend.write("wide", "wide", 10, 50);
  ASSERT_EQ(settled(store, ticket = store.request("wide")), State::kFailed);
  EXPECT_EQ(ticket.error(),
            "adapter 'wide' needs 50 bytes of device memory, more than all that adapters may take "
            "(40 bytes)");
}

TEST_P(AdapterStoreTest, FailureReachesItsRequestersOnlyAndCanBeRetried) {
  std::atomic<bool> broken = true;
  Gate gate;
  backend.on_load = [&](const std::string& id) {
    if (id != "a" || !broken) return;
    gate.pass();
    fail("a: no tensor lora_A");
  };
  AdapterStore store(backend, options());
  AdapterTicket first = store.request("a");
  gate.await_arrivals(1);
  AdapterTicket second = store.request("a");
  EXPECT_TRUE(store.load_now({"b"})[0]);
  gate.open();
  EXPECT_EQ(settled(store, first), State::kFailed);
  EXPECT_EQ(settled(store, second), State::kFailed);
  EXPECT_EQ(first.error(), "a: no tensor lora_A");
  EXPECT_EQ(second.error(), "a: no tensor lora_A");
  EXPECT_FALSE(first.try_pin());
  EXPECT_EQ(store.stats().host.failed_loads, 1u);
  broken = false;
  EXPECT_TRUE(store.load_now({"a"})[0]);
  EXPECT_EQ(first.state(), State::kFailed);
}

TEST_P(AdapterStoreTest, FailedUploadLeavesNothingOnTheDevice) {
  std::atomic<bool> broken = true;
  backend.on_upload = [&](const std::string&) {
    if (broken) throw 1;
  };
  AdapterStore store(backend, options());
  AdapterTicket ticket = store.request("a");
  ASSERT_EQ(settled(store, ticket), State::kFailed);
  EXPECT_EQ(ticket.error(), "adapter 'a': unknown error");
  EXPECT_EQ(store.stats().slots_used, 0);
  EXPECT_EQ(store.stats().device.bytes, 0u);
  EXPECT_EQ(store.stats().device.failed_loads, 1u);
  broken = false;
  EXPECT_TRUE(store.load_now({"a"})[0]);
  EXPECT_EQ(backend.loads, 1);
}

TEST_P(AdapterStoreTest, MissingAdapterFailsAlsoWhenItWasThere) {
  AdapterStore store(backend, options());
  EXPECT_THROW(store.load_now({"nowhere"}), Error);
  store.load_now({"a"});
  backend.remove("a");
  AdapterTicket ticket = store.request("a");
  ASSERT_EQ(settled(store, ticket), State::kFailed);
  EXPECT_EQ(ticket.error(), "a: no such adapter");
}

TEST_P(AdapterStoreTest, ChangedContentIsANewAdapterAndTheOldOneServesItsUsers) {
  AdapterStore store(backend, options());
  AdapterTicket old_ticket = store.request("a");
  ASSERT_EQ(settled(store, old_ticket), State::kReady);
  AdapterPin old_pin = old_ticket.try_pin();
  backend.write("a", "a2", 10, 10);
  AdapterPin new_pin = std::move(store.load_now({"a"})[0]);
  EXPECT_EQ(new_pin.digest(), "a2");
  EXPECT_EQ(old_pin.digest(), "a");
  EXPECT_EQ(old_ticket.try_pin().digest(), "a");
  EXPECT_NE(old_pin.slot(), new_pin.slot());
  EXPECT_EQ(store.stats().slots_used, 2);
  old_ticket = {};
  EXPECT_EQ(store.stats().slots_used, 2);
  old_pin.reset();
  EXPECT_TRUE(eventually([&] { return store.stats().slots_used == 1; }));
  EXPECT_EQ(store.stats().host.dropped, 1u);
  EXPECT_EQ(store.stats().host.bytes, 10u);
}

TEST_P(AdapterStoreTest, FailedReloadKeepsTheOldVersionOnlyForItsUsers) {
  AdapterStore store(backend, options());
  AdapterPin old_pin = std::move(store.load_now({"a"})[0]);
  backend.write("a", "a2", 100, 10);
  EXPECT_THROW(store.load_now({"a"}), Error);
  EXPECT_EQ(old_pin.digest(), "a");
  backend.write("a", "a3", 10, 10);
  EXPECT_EQ(store.load_now({"a"})[0].digest(), "a3");
}

TEST_P(AdapterStoreTest, EqualContentIsShared) {
  backend.write("copy", "a", 10, 10);
  AdapterStore store(backend, options());
  const std::vector<AdapterPin> pins = store.load_now({"a", "copy"});
  EXPECT_EQ(pins[0].slot(), pins[1].slot());
  EXPECT_TRUE(eventually([&] { return store.stats().host.bytes == 10; }));
  EXPECT_EQ(store.stats().slots_used, 1);
  backend.write("copy", "other", 10, 10);  // one name moves on, the other keeps it
  EXPECT_NE(store.load_now({"copy"})[0].slot(), pins[0].slot());
  EXPECT_EQ(store.load_now({"a"})[0].slot(), pins[0].slot());
}

TEST_P(AdapterStoreTest, RefreshDuringALoadMakesTheNextRequestReadAgain) {
  Gate gate;
  std::atomic<int> reads = 0;
  backend.on_load = [&](const std::string&) {
    if (++reads == 1) gate.pass();
  };
  AdapterStore store(backend, options());
  AdapterTicket first = store.request("a");
  gate.await_arrivals(1);
  store.refresh("a");
  gate.open();
  ASSERT_EQ(settled(store, first), State::kReady);
  ASSERT_EQ(settled(store, first = store.request("a")), State::kReady);
  EXPECT_EQ(reads, 2);
  ASSERT_EQ(settled(store, first = store.request("a")), State::kReady);
  EXPECT_EQ(reads, 2);
  // The same content: once in memory.
  EXPECT_TRUE(eventually([&] { return store.stats().host.bytes == 10; }));
}

TEST_P(AdapterStoreTest, ForgottenNameIsDroppedOnceUnused) {
  AdapterStore store(backend, options());
  AdapterPin pin = std::move(store.load_now({"a"})[0]);
  store.forget("a");
  EXPECT_EQ(store.stats().host.adapters, 1u);
  pin.reset();
  EXPECT_TRUE(eventually([&] { return store.stats().host.bytes == 0; }));
  store.forget("never heard of");
  store.load_now({"a"});
  EXPECT_EQ(backend.loads, 2);
}

TEST_P(AdapterStoreTest, FilesThatChangeWhileTheyAreReadAreReadAgain) {
  std::atomic<int> changes = 1;
  backend.on_load = [&](const std::string& id) {
    if (changes-- > 0) backend.write(id, "newer", 10, 10);
  };
  AdapterStore store(backend, options());
  EXPECT_EQ(store.load_now({"a"})[0].digest(), "newer");
  EXPECT_EQ(backend.loads, 2);
  changes = 1000;
  AdapterTicket ticket = store.request("b");
  ASSERT_EQ(settled(store, ticket), State::kFailed);
  EXPECT_EQ(ticket.error(), "adapter 'b': its files keep changing while they are read");
}

TEST_P(AdapterStoreTest, WithdrawnRequestIsNotBegunOrEndsQuietly) {
  Gate gate;
  backend.on_load = [&](const std::string&) { gate.pass(); };
  AdapterStoreOptions options = this->options();
  options.loader_threads = 1;
  AdapterStore store(backend, options);
  AdapterTicket a = store.request("a");
  gate.await_arrivals(1);
  AdapterTicket b = store.request("b");
  AdapterTicket c = store.request("c");
  b = {};
  a = {};
  EXPECT_EQ(store.stats().tickets, 1u);
  gate.open();
  EXPECT_EQ(settled(store, c), State::kReady);
  EXPECT_EQ(backend.loads, 2);
  EXPECT_EQ(store.stats().abandoned, 1u);
  // What was in flight has arrived in host memory, where a later request finds it.
  store.load_now({"a"});
  EXPECT_EQ(backend.loads, 2);
}

TEST_P(AdapterStoreTest, RequestWithdrawnWhileItWaitsForASlot) {
  AdapterStoreOptions options = this->options();
  options.slots = 1;
  AdapterStore store(backend, options);
  std::vector<AdapterPin> pins = store.load_now({"a"});
  AdapterTicket b = store.request("b");
  EXPECT_TRUE(eventually([&] { return b.state() == State::kNoRoom; }));
  b = {};
  pins.clear();
  EXPECT_TRUE(store.load_now({"c"})[0]);
  EXPECT_EQ(backend.uploads, 2);
}

TEST_P(AdapterStoreTest, SlowAdapterBlocksNobodyWhileAThreadIsFree) {
  Gate gate;
  backend.on_load = [&](const std::string& id) {
    if (id == "a") gate.pass();
  };
  AdapterStore store(backend, options());
  AdapterTicket slow = store.request("a");
  gate.await_arrivals(1);
  for (const char* id : {"b", "c", "d", "b"}) EXPECT_TRUE(store.load_now({id})[0]);
  EXPECT_EQ(slow.state(), State::kLoading);
  gate.open();
  EXPECT_EQ(settled(store, slow), State::kReady);
}

TEST_P(AdapterStoreTest, WarmAdaptersAreServedWhileAllThreadsRead) {
  Gate gate;
  backend.on_load = [&](const std::string& id) {
    if (id != "a") gate.pass();
  };
  AdapterStore store(backend, options());
  store.load_now({"a"});
  AdapterTicket b = store.request("b");
  AdapterTicket c = store.request("c");
  gate.await_arrivals(2);
  EXPECT_TRUE(store.load_now({"a"})[0]);
  gate.open();
  EXPECT_EQ(settled(store, b), State::kReady);
  EXPECT_EQ(settled(store, c), State::kReady);
}

// What /health looks at.
TEST_P(AdapterStoreTest, LoadersThatAllHangAreSeen) {
  using std::chrono::milliseconds;
  Gate gate;
  backend.on_load = [&](const std::string&) { gate.pass(); };
  AdapterStore store(backend, options());
  AdapterTicket b = store.request("b");
  gate.await_arrivals(1);
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_EQ(store.stuck_for().count(), 0);  // one alone does not count
  AdapterTicket c = store.request("c");
  gate.await_arrivals(2);
  // Names are still looked up, which is no progress for those that wait to be read.
  AdapterTicket d = store.request("d");
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (store.stuck_for() < milliseconds(50) && std::chrono::steady_clock::now() < end) {
    AdapterTicket e = store.request("e");
    std::this_thread::sleep_for(milliseconds(5));
  }
  EXPECT_GE(store.stuck_for(), milliseconds(50));
  gate.open();
  for (const AdapterTicket* ticket : {&b, &c, &d})
    EXPECT_EQ(settled(store, *ticket), State::kReady);
  EXPECT_EQ(store.stuck_for().count(), 0);
}

TEST_P(AdapterStoreTest, LoadNowSaysWhatDoesNotFit) {
  AdapterStore store(backend, options());
  EXPECT_THROW(store.load_now({"a", "b", "c", "d", "e"}), Error);
  EXPECT_EQ(store.stats().pins, 0u);
  EXPECT_EQ(store.load_now({"a", "b", "c", "d"}).size(), 4u);
  EXPECT_EQ(store.load_now({"a", "a"}).size(), 2u);
}

TEST_P(AdapterStoreTest, ShutdownEndsPromptlyAndFailsWhoWaits) {
  Gate gate;
  backend.on_load = [&](const std::string& id) {
    if (id != "a") gate.pass();
  };
  AdapterStore store(backend, options());
  AdapterPin pin = std::move(store.load_now({"a"})[0]);
  std::vector<AdapterTicket> tickets;
  for (const char* id : {"b", "c", "d", "e", "f"}) tickets.push_back(store.request(id));
  gate.await_arrivals(2);
  std::thread waiter([&] { store.wait(tickets[4]); });
  std::thread stopper([&] { store.shutdown(); });
  waiter.join();  // queued: fails before those in flight end
  gate.open();
  stopper.join();
  for (const AdapterTicket& ticket : tickets) {
    EXPECT_EQ(ticket.state(), State::kFailed);
    EXPECT_NE(ticket.error().find("shutting down"), std::string::npos);
  }
  EXPECT_EQ(backend.loads, 3);
  EXPECT_EQ(store.request("a").state(), State::kFailed);
  EXPECT_EQ(pin.digest(), "a");
  store.shutdown();
}

TEST_P(AdapterStoreTest, TellsWhenTicketsSettle) {
  std::atomic<int> told = 0;
  AdapterStoreOptions options = this->options();
  options.on_settled = [&] { ++told; };
  AdapterStore store(backend, options);
  AdapterTicket a = store.request("a");
  EXPECT_TRUE(eventually([&] { return told >= 1; }));
  EXPECT_EQ(a.state(), State::kReady);
  AdapterTicket missing = store.request("nowhere");
  EXPECT_TRUE(eventually([&] { return told >= 2; }));
}

TEST_P(AdapterStoreTest, PinsAndTicketsMove) {
  AdapterStore store(backend, options());
  AdapterTicket ticket = store.request("a");
  store.wait(ticket);
  AdapterTicket moved = std::move(ticket);
  EXPECT_FALSE(ticket);  // NOLINT(bugprone-use-after-move): moved-from means empty
  AdapterPin first = moved.try_pin();
  AdapterPin second = moved.try_pin();
  EXPECT_EQ(store.stats().pins, 2u);
  first = std::move(second);
  EXPECT_EQ(store.stats().pins, 1u);
  EXPECT_EQ(first.digest(), "a");
}

TEST(AdapterStoreOptionsTest, ThatCannotWorkAreErrors) {
  FakeAdapterBackend backend(41, 40, true);
  AdapterStoreOptions options = four_adapters(true);
  options.slots = 0;
  EXPECT_THROW(AdapterStore(backend, options), Error);
  options = four_adapters(true);
  options.loader_threads = 0;
  EXPECT_THROW(AdapterStore(backend, options), Error);
}

TEST(AdapterStoreHostTierTest, SmallHostTierPassesManyToTheDevice) {
  FakeAdapterBackend backend(11, 100, false);
  AdapterStoreOptions options = four_adapters(false);
  options.host_budget = 11;
  options.device_budget = 100;
  AdapterStore store(backend, options);
  std::vector<std::string> ids;
  for (int i = 0; i < 8; ++i) {
    ids.push_back(fmt::format("adapter{}", i));
    backend.write(ids.back(), ids.back(), 10, 10);
  }
  EXPECT_EQ(store.load_now(ids).size(), 8u);
  EXPECT_EQ(store.stats().host.adapters, 1u);
  EXPECT_EQ(store.stats().device.bytes, 80u);
}

}  // namespace
}  // namespace lorax
