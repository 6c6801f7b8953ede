// What unit tests of the scheduler share: adapters that are in whatever state the test sets.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/schedule/adapter_exchange.h"

namespace lorax {

class FakeAdapterExchange final : public AdapterExchange {
 public:
  using State = AdapterLease::State;

  // Of leases asked for before and after; kLoading unless set.
  std::map<std::string, State> states;
  // "name" is the digest unless set; leases keep the one they were asked for with.
  std::map<std::string, std::string> digests;
  std::map<std::string, std::vector<int32_t>> invocations;  // by name
  std::map<std::string, int> leases;                        // alive
  std::map<std::string, int> requests;

  std::unique_ptr<AdapterLease> request(const std::string& id) override {
    ++requests[id];
    const auto digest = digests.find(id);
    return std::make_unique<Lease>(*this, id, digest == digests.end() ? id : digest->second);
  }

 private:
  class Lease final : public AdapterLease {
   public:
    Lease(FakeAdapterExchange& exchange, std::string id, std::string digest)
        : exchange_(exchange), id_(std::move(id)), digest_(std::move(digest)) {
      ++exchange_.leases[id_];
    }
    ~Lease() override { --exchange_.leases[id_]; }
    State state() override {
      const auto it = exchange_.states.find(id_);
      return it == exchange_.states.end() ? State::kLoading : it->second;
    }
    std::string error() const override { return id_ + " is broken"; }
    int32_t slot() const override { return 7; }
    const std::string& digest() const override { return digest_; }
    std::span<const int32_t> invocation() const override { return exchange_.invocations[id_]; }

   private:
    FakeAdapterExchange& exchange_;
    const std::string id_;
    const std::string digest_;
  };
};

}  // namespace lorax
