// Adapters of a simulation: names, a number of places for those that are loaded, loads that take
// steps of a clock. Checks that nobody uses what is not there.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "base/check.h"
#include "engine/schedule/adapter_exchange.h"

namespace lorax::sim {

class SimAdapters final : public AdapterExchange {
 public:
  explicit SimAdapters(int places) : places_(places) {}
  ~SimAdapters() override { LORAX_CHECK(leases_.empty()); }

  // How many ticks a load of this name takes, from now on; and whether it fails.
  void set_load(const std::string& name, int ticks, bool fails = false) {
    sources_[name].ticks = ticks;
    sources_[name].fails = fails;
  }
  // The name has other content from now on.
  void change(const std::string& name) { ++sources_[name].version; }

  void tick() {
    for (Lease* lease : leases_) {
      if (lease->state_ == State::kLoading && --lease->ticks_left <= 0) settle(*lease);
    }
    begin_loads();
  }

  std::unique_ptr<AdapterLease> request(const std::string& id) override {
    auto lease = std::make_unique<Lease>(*this, id, sources_[id].version);
    leases_.push_back(lease.get());
    lease->self = std::prev(leases_.end());
    begin_loads();
    return lease;
  }

  size_t leases() const { return leases_.size(); }
  // The digest of the adapter at a place.
  const std::string& at(int32_t slot) const { return loaded_.at(slot).digest; }
  int loads() const { return loads_; }

 private:
  using State = AdapterLease::State;
  struct Source {
    int ticks = 0;
    bool fails = false;
    int version = 0;
  };
  struct Loaded {
    std::string digest;
    int holds = 0;  // loads in flight and ready leases
    bool here = false;
    uint64_t used_at = 0;
  };

  class Lease final : public AdapterLease {
   public:
    Lease(SimAdapters& adapters, std::string name, int version)
        : adapters_(adapters), name_(std::move(name)) {
      digest_ = fmt::format("{}.{}", name_, version);
    }
    ~Lease() override {
      adapters_.leases_.erase(self);
      adapters_.let_go(*this);
    }
    State state() override { return state_; }
    std::string error() const override {
      LORAX_CHECK(state_ == State::kFailed);
      return name_ + ": broken";
    }
    int32_t slot() const override {
      LORAX_CHECK(state_ == State::kReady);
      return slot_;
    }
    const std::string& digest() const override {
      LORAX_CHECK(state_ == State::kReady);
      return digest_;
    }

    SimAdapters& adapters_;
    std::string name_;
    std::string digest_;
    State state_ = State::kNoRoom;
    int32_t slot_ = -1;
    int ticks_left = 0;
    std::list<Lease*>::iterator self;
  };

  int32_t place_of(const std::string& digest) const {
    for (const auto& [slot, loaded] : loaded_) {
      if (loaded.digest == digest && loaded.here) return slot;
    }
    return -1;
  }

  // -1: all are in use.
  int32_t free_place() const {
    int32_t oldest = -1;
    for (int32_t slot = 0; slot < places_; ++slot) {
      const auto it = loaded_.find(slot);
      if (it == loaded_.end()) return slot;
      if (it->second.holds > 0) continue;
      if (oldest < 0 || it->second.used_at < loaded_.at(oldest).used_at) oldest = slot;
    }
    return oldest;
  }

  void begin_loads() {
    for (Lease* lease : leases_) {
      if (lease->state_ != State::kNoRoom) continue;
      if (const int32_t here = place_of(lease->digest_); here >= 0) {
        lease->slot_ = here;
        lease->state_ = State::kReady;
        ++loaded_[here].holds;
        continue;
      }
      const Source& source = sources_[lease->name_];
      const int32_t place = free_place();
      if (place < 0) continue;
      loaded_[place] = {.digest = lease->digest_, .holds = 1, .here = false, .used_at = ++clock_};
      lease->slot_ = place;
      lease->ticks_left = source.ticks;
      lease->state_ = State::kLoading;
      ++loads_;
      if (source.ticks == 0) settle(*lease);
    }
  }

  void settle(Lease& lease) {
    if (sources_[lease.name_].fails) {
      loaded_.erase(lease.slot_);
      lease.slot_ = -1;
      lease.state_ = State::kFailed;
    } else {
      loaded_[lease.slot_].here = true;
      lease.state_ = State::kReady;
    }
  }

  void let_go(Lease& lease) {
    if (lease.slot_ < 0) return;
    Loaded& loaded = loaded_.at(lease.slot_);
    if (lease.state_ == State::kLoading) {
      loaded_.erase(lease.slot_);
    } else {
      LORAX_CHECK(loaded.holds > 0);
      --loaded.holds;
      loaded.used_at = ++clock_;
    }
    begin_loads();
  }

  const int places_;
  std::map<std::string, Source> sources_;
  std::list<Lease*> leases_;
  std::map<int32_t, Loaded> loaded_;
  uint64_t clock_ = 0;
  int loads_ = 0;
};

}  // namespace lorax::sim
