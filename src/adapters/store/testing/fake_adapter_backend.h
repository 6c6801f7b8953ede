// What the tests of the adapter store share: a backend whose adapters are numbers only, which
// checks at every step what the store promises, and a gate to hold threads back.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "adapters/store/adapter_backend.h"
#include "adapters/store/adapter_store_types.h"
#include "base/error.h"
#include "base/eventually.h"

namespace lorax {

// Threads that pass() wait until it is open.
class Gate {
 public:
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    EXPECT_TRUE(changed_.wait_for(lock, kTestPatience, [this] { return open_; }));
  }
  void await_arrivals(int count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kTestPatience, [&] { return arrived_ >= count; }));
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  int arrived_ = 0;
};

// Bytes alive, never more than the budget.
class FakeMemory {
 public:
  explicit FakeMemory(uint64_t budget) : budget_(budget) {}

  void take(uint64_t bytes) {
    const uint64_t now = live_ += bytes;
    EXPECT_LE(now, budget_);
    uint64_t peak = peak_;
    while (now > peak && !peak_.compare_exchange_weak(peak, now)) {
    }
  }
  void give(uint64_t bytes) { live_ -= bytes; }
  uint64_t live() const { return live_; }
  uint64_t peak() const { return peak_; }

 private:
  const uint64_t budget_;
  std::atomic<uint64_t> live_{0};
  std::atomic<uint64_t> peak_{0};
};

// At any time.
inline void check_books(const AdapterStoreStats& stats) {
  for (const AdapterTierStats& tier : {stats.host, stats.device}) {
    EXPECT_LE(tier.bytes, tier.budget_bytes);
    EXPECT_EQ(tier.loads, tier.evictions + tier.dropped + tier.adapters);
  }
  EXPECT_LE(stats.slots_used, stats.slots);
}

// Once nobody asks for anything and the store's threads have nothing to do.
inline void expect_at_rest(const AdapterStoreStats& stats) {
  check_books(stats);
  EXPECT_EQ(stats.tickets, 0u);
  EXPECT_EQ(stats.pins, 0u);
  EXPECT_EQ(stats.waiting, 0u);
  EXPECT_EQ(stats.requests, stats.joined + stats.device.hits + stats.host.hits + stats.host.loads +
                                stats.host.failed_loads + stats.abandoned);
}

class FakeHostAdapter final : public HostAdapter {
 public:
  FakeHostAdapter(FakeMemory& memory, std::string digest, uint64_t host_bytes,
                  uint64_t device_bytes)
      : memory_(memory),
        digest_(std::move(digest)),
        host_bytes_(host_bytes),
        device_bytes_(device_bytes) {}
  ~FakeHostAdapter() override { memory_.give(host_bytes_); }

  const std::string& digest() const override { return digest_; }
  uint64_t host_bytes() const override { return host_bytes_; }
  uint64_t device_bytes() const override { return device_bytes_; }

 private:
  FakeMemory& memory_;
  const std::string digest_;
  const uint64_t host_bytes_;
  const uint64_t device_bytes_;
};

class FakeAdapterBackend final : public AdapterBackend {
 public:
  static constexpr uint64_t kSlack = 1;  // a load takes so much more until it has ended

  FakeAdapterBackend(uint64_t host_budget, uint64_t device_budget, bool unified)
      : host(host_budget), device(device_budget), unified_(unified) {}

  // Writes the directory `id`: its content is its digest.
  void write(const std::string& id, const std::string& content, uint64_t host_bytes,
             uint64_t device_bytes = 0) {
    const std::lock_guard lock(mutex_);
    Source& source = sources_[id];
    source = {content, host_bytes, device_bytes, source.version + 1};
  }
  void remove(const std::string& id) {
    const std::lock_guard lock(mutex_);
    sources_.erase(id);
  }

  // From now on `id` may be read while it is being read: it is refreshed or forgotten.
  void allow_two_reads(const std::string& id) {
    const std::lock_guard lock(mutex_);
    two_reads_.insert(id);
  }

  AdapterProbe probe(const std::string& id) override {
    on_probe(id);
    const Source source = find(id);
    return {.fingerprint = std::to_string(source.version),
            .host_bytes = source.host_bytes + kSlack};
  }

  std::unique_ptr<HostAdapter> load(const std::string& id, const AdapterProbe& probe) override {
    const Running running(*this, id);
    host.take(probe.host_bytes);
    Source source;
    try {
      source = find(id);
      on_load(id);
      if (source.host_bytes > probe.host_bytes) fail("{}: grew", id);
    } catch (...) {
      host.give(probe.host_bytes);
      throw;
    }
    ++loads;
    host.give(probe.host_bytes - source.host_bytes);
    return std::make_unique<FakeHostAdapter>(host, source.content, source.host_bytes,
                                             source.device_bytes);
  }

  std::unique_ptr<ResidentAdapter> upload(const HostAdapter& adapter, int slot) override {
    const uint64_t bytes = unified_ ? 0 : adapter.device_bytes();
    auto resident = std::make_unique<Resident>(*this, adapter.digest(), slot, bytes);
    on_upload(adapter.digest());
    ++uploads;
    return resident;
  }

  static const std::string& digest_of(const ResidentAdapter& adapter) {
    return static_cast<const Resident&>(adapter).digest;
  }

  FakeMemory host;
  FakeMemory device;
  std::atomic<int> loads{0};
  std::atomic<int> uploads{0};
  // To be set before the store is made. May block or throw.
  std::function<void(const std::string&)> on_probe = [](const std::string&) {};
  std::function<void(const std::string&)> on_load = [](const std::string&) {};
  std::function<void(const std::string&)> on_upload = [](const std::string&) {};

 private:
  struct Source {
    std::string content;
    uint64_t host_bytes = 0;
    uint64_t device_bytes = 0;
    int version = 0;
  };

  // No id is read twice at once, unless that is allowed.
  struct Running {
    Running(FakeAdapterBackend& backend, std::string id) : backend(backend), id(std::move(id)) {
      const std::lock_guard lock(backend.mutex_);
      const int others = backend.running_[this->id]++;
      EXPECT_TRUE(others == 0 || backend.two_reads_.contains(this->id)) << this->id;
    }
    ~Running() {
      const std::lock_guard lock(backend.mutex_);
      --backend.running_[id];
    }
    FakeAdapterBackend& backend;
    const std::string id;
  };

  // Uploads and releases never run side by side; no slot is given twice.
  struct Resident final : ResidentAdapter {
    Resident(FakeAdapterBackend& backend, std::string digest, int slot, uint64_t bytes)
        : backend(backend), digest(std::move(digest)), slot(slot), bytes(bytes) {
      const std::unique_lock lock(backend.device_mutex_, std::try_to_lock);
      EXPECT_TRUE(lock.owns_lock());
      EXPECT_TRUE(backend.slots_.insert(slot).second) << slot;
      backend.device.take(bytes);
    }
    ~Resident() override {
      const std::unique_lock lock(backend.device_mutex_, std::try_to_lock);
      EXPECT_TRUE(lock.owns_lock());
      backend.slots_.erase(slot);
      backend.device.give(bytes);
    }
    FakeAdapterBackend& backend;
    const std::string digest;
    const int slot;
    const uint64_t bytes;
  };

  Source find(const std::string& id) {
    const std::lock_guard lock(mutex_);
    const auto it = sources_.find(id);
    if (it == sources_.end()) fail("{}: no such adapter", id);
    return it->second;
  }

  const bool unified_;
  std::mutex mutex_;
  std::map<std::string, Source> sources_;
  std::map<std::string, int> running_;
  std::set<std::string> two_reads_;
  std::mutex device_mutex_;
  std::set<int> slots_;
};

}  // namespace lorax
