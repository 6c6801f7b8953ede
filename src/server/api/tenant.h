// Who sends a request, as its API key says: what it may see, and how much it may ask for.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lorax {

// 0: none.
struct TenantLimits {
  int64_t max_concurrent_requests = 0;  // queued and running, as the server's limit counts them
  int64_t max_tokens_per_minute = 0;    // of prompts and generated
};

// What a tenant has under way and has spent: it outlives changes of its key. Thread-safe.
class TenantUsage {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // Takes places for so many generations, or says in how many seconds to try again. A tenant whose
  // tokens are not used up is let in, whatever its request will take: that counts afterwards.
  std::optional<std::chrono::seconds> try_begin(int64_t generations, const TenantLimits& limits,
                                                Time now);
  void end(int64_t generations);
  void spend(int64_t tokens, const TenantLimits& limits, Time now);

  int64_t running() const;

 private:
  void refill(const TenantLimits& limits, Time now);

  mutable std::mutex mutex_;
  int64_t running_ = 0;
  // Of what a minute allows; less than 0 where requests took more than was left.
  std::optional<double> tokens_left_;
  Time refilled_at_;
};

struct Tenant {
  std::string name;  // "": whoever has --api-key
  // Names of adapters; "team/*" are all below team, "*" are all. Nothing: all, too.
  std::optional<std::vector<std::string>> adapters;
  TenantLimits limits;
  std::shared_ptr<TenantUsage> usage = std::make_shared<TenantUsage>();

  bool sees_all_adapters() const;
  bool sees_adapter(std::string_view adapter_name) const;
};

// Whether a client sees the adapter. Null: the server has no API keys, and everyone sees all.
bool sees_adapter(const Tenant* tenant, std::string_view adapter_name);

// The places of a tenant's generations, until this goes or they are given back.
class TenantPlaces {
 public:
  TenantPlaces() = default;
  // Takes them. Precondition: try_begin() has let them in.
  TenantPlaces(std::shared_ptr<const Tenant> tenant, int64_t generations)
      : tenant_(std::move(tenant)), generations_(generations) {}
  TenantPlaces(TenantPlaces&& other) noexcept { swap(other); }
  TenantPlaces& operator=(TenantPlaces&& other) noexcept {
    swap(other);
    return *this;
  }
  ~TenantPlaces() { give_back(); }

  void give_back() {
    if (tenant_ != nullptr) tenant_->usage->end(generations_);
    tenant_ = nullptr;
  }

 private:
  void swap(TenantPlaces& other) noexcept {
    std::swap(tenant_, other.tenant_);
    std::swap(generations_, other.generations_);
  }

  std::shared_ptr<const Tenant> tenant_;
  int64_t generations_ = 0;
};

}  // namespace lorax
