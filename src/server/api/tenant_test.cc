#include "server/api/tenant.h"

#include <gtest/gtest.h>

namespace lorax {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(TenantTest, AdaptersByNameAndBelow) {
  Tenant tenant;
  EXPECT_TRUE(tenant.sees_adapter("x") && tenant.sees_all_adapters());
  tenant.adapters = {"pirate", "team/*"};
  EXPECT_FALSE(tenant.sees_all_adapters());
  for (const char* name : {"pirate", "team/red", "team/a/b"}) {
    EXPECT_TRUE(tenant.sees_adapter(name)) << name;
  }
  for (const char* name : {"", "pirates", "pirate/x", "team", "teams/red", "Pirate"}) {
    EXPECT_FALSE(tenant.sees_adapter(name)) << name;
  }
  tenant.adapters = {"*"};
  EXPECT_TRUE(tenant.sees_adapter("x") && tenant.sees_all_adapters());
  tenant.adapters = std::vector<std::string>{};
  EXPECT_FALSE(tenant.sees_adapter("x") || sees_adapter(&tenant, "x"));
  EXPECT_TRUE(sees_adapter(nullptr, "x"));
}

TEST(TenantTest, RequestsAtOnce) {
  TenantUsage usage;
  const TenantLimits limits = {.max_concurrent_requests = 3};
  EXPECT_FALSE(usage.try_begin(2, limits, {}));
  EXPECT_EQ(usage.try_begin(2, limits, {}), seconds(1));
  EXPECT_FALSE(usage.try_begin(1, limits, {}));
  EXPECT_TRUE(usage.try_begin(1, limits, {}));
  usage.end(2);
  EXPECT_FALSE(usage.try_begin(2, limits, {}));
  usage.end(3);
  EXPECT_EQ(usage.running(), 0);
}

TEST(TenantTest, TokensAMinute) {
  TenantUsage usage;
  const TenantLimits limits = {.max_tokens_per_minute = 60};
  TenantUsage::Time now{};
  EXPECT_FALSE(usage.try_begin(1, limits, now));
  usage.spend(50, limits, now);
  EXPECT_FALSE(usage.try_begin(1, limits, now)) << "10 are left";
  usage.spend(30, limits, now);
  EXPECT_EQ(usage.try_begin(1, limits, now), seconds(21))
      << "20 too many, one must be left, and one comes each second";
  now += milliseconds(19'500);
  EXPECT_EQ(usage.try_begin(1, limits, now), seconds(2));
  now += seconds(2);
  EXPECT_FALSE(usage.try_begin(1, limits, now)) << "as Retry-After has said";
  now += seconds(1000);
  usage.spend(59, limits, now);
  EXPECT_FALSE(usage.try_begin(1, limits, now));
  usage.spend(2, limits, now);
  EXPECT_TRUE(usage.try_begin(1, limits, now)) << "no more than a minute's are saved up";
  EXPECT_FALSE(usage.try_begin(1, {.max_tokens_per_minute = 0}, now)) << "the limit has gone";
}

TEST(TenantTest, PlacesComeBackOnce) {
  auto tenant = std::make_shared<Tenant>();
  const auto begin = [&](int64_t generations) {
    EXPECT_FALSE(tenant->usage->try_begin(generations, {}, {}));
    return TenantPlaces(tenant, generations);
  };
  {
    TenantPlaces places = begin(2);
    TenantPlaces moved = std::move(places);
    EXPECT_EQ(tenant->usage->running(), 2);
    moved.give_back();
    EXPECT_EQ(tenant->usage->running(), 0);
    const TenantPlaces others = begin(3);
    EXPECT_EQ(tenant->usage->running(), 3);
  }
  EXPECT_EQ(tenant->usage->running(), 0);
}

}  // namespace
}  // namespace lorax
