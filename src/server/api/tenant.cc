#include "server/api/tenant.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace lorax {
namespace {

using std::chrono::seconds;

// In which a request of the tenant's may have ended.
constexpr seconds kSoon{1};

bool matches(std::string_view pattern, std::string_view name) {
  if (pattern == "*") return true;
  if (pattern.ends_with("/*")) return name.starts_with(pattern.substr(0, pattern.size() - 1));
  return pattern == name;
}

}  // namespace

void TenantUsage::refill(const TenantLimits& limits, Time now) {
  const double most = static_cast<double>(limits.max_tokens_per_minute);
  const std::chrono::duration<double, std::ratio<60>> minutes = now - refilled_at_;
  tokens_left_ = std::min(most, tokens_left_.value_or(most) + most * minutes.count());
  refilled_at_ = now;
}

std::optional<seconds> TenantUsage::try_begin(int64_t generations, const TenantLimits& limits,
                                              Time now) {
  const std::lock_guard lock(mutex_);
  if (limits.max_concurrent_requests > 0 &&
      running_ + generations > limits.max_concurrent_requests) {
    return kSoon;
  }
  if (limits.max_tokens_per_minute > 0) {
    refill(limits, now);
    // A request takes a token at least.
    if (*tokens_left_ < 1.0) {
      const double per_second = static_cast<double>(limits.max_tokens_per_minute) / 60.0;
      return seconds(static_cast<int64_t>(std::ceil((1.0 - *tokens_left_) / per_second)));
    }
  }
  running_ += generations;
  return std::nullopt;
}

void TenantUsage::end(int64_t generations) {
  const std::lock_guard lock(mutex_);
  running_ -= generations;
  LORAX_CHECK(running_ >= 0);
}

void TenantUsage::spend(int64_t tokens, const TenantLimits& limits, Time now) {
  if (limits.max_tokens_per_minute == 0) return;
  const std::lock_guard lock(mutex_);
  refill(limits, now);
  *tokens_left_ -= static_cast<double>(tokens);
}

int64_t TenantUsage::running() const {
  const std::lock_guard lock(mutex_);
  return running_;
}

bool Tenant::sees_all_adapters() const {
  return !adapters || std::ranges::find(*adapters, "*") != adapters->end();
}

bool Tenant::sees_adapter(std::string_view adapter_name) const {
  return !adapters || std::ranges::any_of(*adapters, [&](const std::string& pattern) {
    return matches(pattern, adapter_name);
  });
}

bool sees_adapter(const Tenant* tenant, std::string_view adapter_name) {
  return tenant == nullptr || tenant->sees_adapter(adapter_name);
}

}  // namespace lorax
