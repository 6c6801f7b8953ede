// The catalog by hand: what the store's threads do, one step after the other, in any order. The
// books must agree with the memory that is there after every step, and be empty at the end.
#include "adapters/store/adapter_catalog.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "adapters/store/testing/fake_adapter_backend.h"

namespace lorax {
namespace {

using Stage = AdapterLoad::Stage;

class FakeResident final : public ResidentAdapter {
 public:
  FakeResident(FakeMemory& memory, uint64_t bytes, int& count)
      : memory_(memory), bytes_(bytes), count_(count) {
    memory_.take(bytes_);
    ++count_;
  }
  ~FakeResident() override {
    memory_.give(bytes_);
    --count_;
  }

 private:
  FakeMemory& memory_;
  const uint64_t bytes_;
  int& count_;
};

AdapterStoreOptions options_of(bool unified) {
  AdapterStoreOptions options;
  options.host_budget = 60;
  options.device_budget = 30;
  options.unified_memory = unified;
  options.slots = 4;
  options.loader_threads = 2;
  options.recheck_after = std::chrono::hours(1);
  return options;
}

// Plays the store's threads and the files. What a read brings is decided when it begins.
class Desk {
 public:
  enum class Outcome { kGood, kFails, kChanged };
  struct Read {
    AdapterLoad* load;
    std::string content;
    uint64_t bytes;
  };

  explicit Desk(bool unified)
      : unified_(unified), host(60), device(30), catalog(options_of(unified)) {}

  // --- The files ---
  void write(const std::string& id) { ++versions_[id]; }
  std::string content_of(const std::string& id) { return id + "." + std::to_string(versions_[id]); }
  uint64_t bytes_of(const std::string& id) { return 5 + (id.back() + versions_[id]) % 5u * 3; }

  // --- Threads that look and read ---
  void begin_probe() {
    if (AdapterLoad* load = catalog.next_probe()) probing.push_back(load);
  }
  void end_probe(size_t index, bool good) {
    AdapterLoad& load = *probing[index];
    probing.erase(probing.begin() + static_cast<ptrdiff_t>(index));
    if (!good) return catalog.probe_failed(load, "no such adapter");
    const std::string id = load.id;
    catalog.probed(load, {.fingerprint = content_of(id), .host_bytes = bytes_of(id) + 1}, now);
  }
  void begin_read() {
    AdapterLoad* load = catalog.next_read();
    if (load == nullptr) return;
    reserved += load->probe.host_bytes;
    granted -= load->probe.host_bytes;
    reading.push_back({load, load->probe.fingerprint, load->probe.host_bytes - 1});
  }
  void end_read(size_t index, Outcome outcome) {
    const Read read = reading[index];
    reading.erase(reading.begin() + static_cast<ptrdiff_t>(index));
    reserved -= read.bytes + 1;
    if (outcome == Outcome::kChanged) return catalog.changed_while_read(*read.load, 0);
    if (outcome == Outcome::kFails) return catalog.read_failed(*read.load, "broken", 0);
    host.take(read.bytes);
    std::unique_ptr<HostAdapter> copy = std::make_unique<FakeHostAdapter>(
        host, read.content, read.bytes, unified_ ? 0 : read.bytes / 2);
    catalog.read(*read.load, copy, 0, now);
    if (copy == nullptr) return;
    copy.reset();
    catalog.spare_destroyed(read.bytes);
  }

  // --- The keeper: one round ---
  bool keep(bool upload_fails = false) {
    AdapterRemains remains = catalog.take_dropped();
    const bool dropped = !remains.empty();
    bury(remains);
    AdapterLoad* const load = catalog.claim_read(remains);
    bury(remains);
    if (load != nullptr) {
      const uint64_t bytes = load->probe.host_bytes;
      const bool wanted = load->tickets > 0 && !catalog.stopped();
      catalog.grant(*load);
      if (wanted) granted += bytes;
    }
    AdapterEntry* const entry = catalog.claim_upload(remains);
    bury(remains);
    if (entry != nullptr && catalog.begin_upload(*entry)) {
      if (upload_fails) {
        catalog.upload_failed(*entry, "no room", 0);
      } else {
        catalog.uploaded(*entry,
                         std::make_unique<FakeResident>(
                             device, unified_ ? 0 : entry->host->device_bytes(), residents),
                         0);
      }
    }
    return dropped || load != nullptr || entry != nullptr;
  }

  // --- Those who ask ---
  AdapterLoad& request(const std::string& id) { return catalog.request(id, now); }
  void drop(AdapterLoad& load) {
    if (load.stage == Stage::kGranted && load.tickets == 1) granted -= load.probe.host_bytes;
    catalog.drop(load);
  }

  // All that is under way ends well.
  void finish() {
    for (int round = 0; round < 10000; ++round) {
      const bool kept = keep();
      begin_probe();
      begin_read();
      const bool any = kept || !probing.empty() || !reading.empty();
      while (!probing.empty()) end_probe(0, true);
      while (!reading.empty()) end_read(0, Outcome::kGood);
      if (!any) return;
    }
    FAIL() << "it never comes to rest";
  }

  void check_books() {
    const AdapterStoreStats stats = catalog.stats();
    EXPECT_EQ(stats.host.bytes, host.live() + granted + reserved);
    EXPECT_EQ(stats.device.bytes, device.live());
    EXPECT_EQ(stats.slots_used, residents);
    lorax::check_books(stats);
  }

  // Nothing is asked for, nothing is under way.
  void expect_at_rest() {
    check_books();
    lorax::expect_at_rest(catalog.stats());
    EXPECT_TRUE(catalog.quiet());
    EXPECT_FALSE(catalog.keeper_wanted());
    EXPECT_FALSE(catalog.reads_wait());
    EXPECT_EQ(granted + reserved, 0u);
  }

 private:
  void bury(AdapterRemains& remains) {
    remains.destroy();
    catalog.settle_burial(remains);
    remains = {};
  }

  const bool unified_;
  std::map<std::string, uint64_t> versions_;

 public:
  FakeMemory host;
  FakeMemory device;
  int residents = 0;
  AdapterCatalog catalog;
  AdapterCatalog::Time now{};
  std::vector<AdapterLoad*> probing;
  std::vector<Read> reading;
  uint64_t granted = 0;   // bytes of loads whose turn to be read has come
  uint64_t reserved = 0;  // of those that are being read
};

// Both kinds of memory.
class AdapterCatalogTest : public testing::TestWithParam<bool> {
 protected:
  Desk desk_{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Memory, AdapterCatalogTest, testing::Bool(), [](const auto& memory) {
  return std::string(memory.param ? "Unified" : "Separate");
});

TEST_P(AdapterCatalogTest, AnyOrderOfEventsKeepsTheBooks) {
  const std::vector<std::string> ids = {"a", "b", "c", "d", "e", "f", "g"};
  std::mt19937 random(GetParam() ? 3 : 4);
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  std::vector<AdapterLoad*> tickets;
  std::vector<AdapterEntry*> pins;
  int ready = 0;
  for (int step = 0; step < 60000; ++step) {
    const std::string& id = ids[below(ids.size())];
    switch (below(14)) {
      case 0:
      case 1:
        if (tickets.size() < 12) tickets.push_back(&desk_.request(id));
        break;
      case 2:
      case 3:
        if (tickets.empty()) break;
        std::swap(tickets[below(tickets.size())], tickets.back());
        desk_.drop(*tickets.back());
        tickets.pop_back();
        break;
      case 4:
        for (AdapterLoad* load : tickets) {
          if (load->stage != Stage::kReady) continue;
          ++ready;
          EXPECT_EQ(load->entry->digest.substr(0, 2), load->id + ".");
          if (pins.size() < 3) {
            desk_.catalog.pin(*load->entry);
            pins.push_back(load->entry);
          }
        }
        break;
      case 5:
        if (pins.empty()) break;
        desk_.catalog.unpin(*pins.back());
        pins.pop_back();
        break;
      case 6:
        if (below(4) == 0) desk_.write(id);
        if (below(4) == 0) desk_.catalog.refresh(id);
        if (below(8) == 0) desk_.catalog.forget(id);
        break;
      case 7:
        desk_.begin_probe();
        break;
      case 8:
        if (!desk_.probing.empty()) desk_.end_probe(below(desk_.probing.size()), below(8) != 0);
        break;
      case 9:
        desk_.begin_read();
        break;
      case 10:
        if (desk_.reading.empty()) break;
        desk_.end_read(below(desk_.reading.size()), below(6) == 0   ? Desk::Outcome::kFails
                                                    : below(6) == 0 ? Desk::Outcome::kChanged
                                                                    : Desk::Outcome::kGood);
        break;
      default:
        desk_.keep(/*upload_fails=*/below(6) == 0);
    }
    desk_.check_books();
    if (HasFailure()) FAIL() << "in step " << step;
  }
  EXPECT_GT(ready, 1000);
  for (AdapterEntry* entry : pins) desk_.catalog.unpin(*entry);
  for (AdapterLoad* load : tickets) desk_.drop(*load);
  desk_.finish();
  desk_.expect_at_rest();
  // What comes after: each is served still, and the room is all there.
  for (const std::string& id : ids) {
    AdapterLoad& load = desk_.request(id);
    desk_.finish();
    EXPECT_EQ(load.stage, Stage::kReady) << id << ": " << load.error;
    desk_.drop(load);
  }
  for (const std::string& id : ids) desk_.catalog.forget(id);
  desk_.finish();
  desk_.expect_at_rest();
  EXPECT_EQ(desk_.catalog.stats().host.bytes, 0u);
  EXPECT_EQ(desk_.catalog.stats().slots_used, 0);
}

// Whatever it was doing when it was told to stop.
TEST_P(AdapterCatalogTest, StopLeavesNothing) {
  std::mt19937 random(5);
  for (int round = 0; round < 300; ++round) {
    Desk desk(GetParam());
    std::vector<AdapterLoad*> tickets;
    for (uint64_t step = random() % 60; step > 0; --step) {
      switch (random() % 6) {
        case 0:
        case 1:
          tickets.push_back(&desk.request(std::string(1, static_cast<char>('a' + random() % 5))));
          break;
        case 2:
          desk.begin_probe();
          break;
        case 3:
          if (!desk.probing.empty()) desk.end_probe(0, true);
          desk.begin_read();
          break;
        case 4:
          if (!desk.reading.empty()) desk.end_read(0, Desk::Outcome::kGood);
          break;
        default:
          desk.keep();
      }
    }
    desk.catalog.stop();
    desk.granted = 0;
    desk.check_books();
    tickets.push_back(&desk.request("late"));
    desk.finish();
    for (AdapterLoad* load : tickets) {
      EXPECT_TRUE(load->settled());
      desk.drop(*load);
    }
    desk.finish();
    desk.expect_at_rest();
    if (HasFailure()) FAIL() << "in round " << round;
  }
}

// Two reads of one name, as a refresh allows; the one that was asked for first ends last. It serves
// those who asked for it and does not take the name back.
TEST_P(AdapterCatalogTest, AnOlderReadLeavesTheNameToAYoungerOne) {
  desk_.write("a");
  AdapterLoad& older = desk_.request("a");
  desk_.begin_probe();
  desk_.end_probe(0, true);
  desk_.keep();
  desk_.begin_read();
  ASSERT_EQ(desk_.reading.size(), 1u);
  desk_.write("a");
  desk_.catalog.refresh("a");
  AdapterLoad& younger = desk_.request("a");
  desk_.begin_probe();
  desk_.end_probe(0, true);
  desk_.keep();
  desk_.begin_read();
  ASSERT_EQ(desk_.reading.size(), 2u);
  desk_.end_read(1, Desk::Outcome::kGood);
  desk_.end_read(0, Desk::Outcome::kGood);
  desk_.finish();
  ASSERT_EQ(older.stage, Stage::kReady);
  ASSERT_EQ(younger.stage, Stage::kReady);
  EXPECT_EQ(older.entry->digest, "a.1");
  EXPECT_EQ(younger.entry->digest, "a.2");
  desk_.drop(older);
  desk_.drop(younger);
  desk_.finish();
  EXPECT_EQ(desk_.catalog.stats().host.adapters, 1u) << "nobody can ask for the old one any more";
  AdapterLoad& next = desk_.request("a");
  ASSERT_EQ(next.stage, Stage::kReady) << "the name stands for what was read last";
  EXPECT_EQ(next.entry->digest, "a.2");
  desk_.drop(next);
  desk_.expect_at_rest();
}

}  // namespace
}  // namespace lorax
