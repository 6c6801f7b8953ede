#include "engine/load/memory_plan.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace lorax {
namespace {

constexpr uint64_t kGb = 1'000'000'000;
constexpr uint64_t kPage = 5'000'000;

MemoryNeeds gpu() {
  MemoryNeeds needs;
  needs.total = 80 * kGb;
  needs.limit = 72 * kGb;
  needs.available = 50 * kGb;
  needs.weights = 20 * kGb;
  needs.workspace = 3 * kGb;
  needs.graph_layers = 420;
  needs.unified = false;
  needs.adapters = 8 * kGb;
  needs.page = kPage;
  needs.most_kv = 1000 * kGb;
  return needs;
}

uint64_t sum(const MemoryPlan& plan) {
  return plan.elsewhere + plan.weights + plan.workspace + plan.graphs + plan.adapters + plan.kv;
}

TEST(MemoryPlanTest, AddsUpToTheLimit) {
  const MemoryPlan plan = share_memory(gpu());
  EXPECT_EQ(plan.elsewhere, 2 * kGb);
  EXPECT_EQ(plan.adapters, 8 * kGb);
  EXPECT_GT(plan.graphs, 0u);
  EXPECT_EQ(plan.kv % kPage, 0u);
  EXPECT_LE(sum(plan), 72 * kGb);
  EXPECT_GT(sum(plan) + kPage, 72 * kGb);
}

TEST(MemoryPlanTest, MoreGraphsLeaveLess) {
  MemoryNeeds needs = gpu();
  needs.graph_layers = 42000;
  EXPECT_LT(share_memory(needs).kv, share_memory(gpu()).kv);
}

TEST(MemoryPlanTest, WithoutAdaptersPagesTakeTheirs) {
  MemoryNeeds needs = gpu();
  needs.adapters = 0;
  EXPECT_EQ(share_memory(needs).adapters, 0u);
  EXPECT_EQ(share_memory(needs).kv, share_memory(gpu()).kv + 8 * kGb);
}

TEST(MemoryPlanTest, AdaptersTakeWhatGivenPagesLeave) {
  MemoryNeeds needs = gpu();
  needs.adapters.reset();
  needs.kv = 10 * kGb + 1;
  const MemoryPlan plan = share_memory(needs);
  EXPECT_EQ(plan.kv, 10 * kGb);
  EXPECT_EQ(sum(plan), 72 * kGb);
}

TEST(MemoryPlanTest, NoMorePagesThanAreOfUse) {
  MemoryNeeds needs = gpu();
  needs.most_kv = 7 * kPage;
  EXPECT_EQ(share_memory(needs).kv, 7 * kPage);
}

TEST(MemoryPlanTest, AHostKeepsHalfFree) {
  MemoryNeeds needs = gpu();
  needs.unified = true;
  const MemoryPlan plan = share_memory(needs);
  EXPECT_EQ(plan.graphs, 0u);
  EXPECT_EQ(plan.kv, (uint64_t{16} << 30) / kPage * kPage);
  needs.available = 31 * kGb;
  EXPECT_EQ(share_memory(needs).kv, 10 * kGb);
  // Budgets are limits there: an adapter budget beyond what is free takes nothing from given pages.
  needs.adapters = 100 * kGb;
  needs.kv = 2 * kPage;
  EXPECT_EQ(share_memory(needs).kv, 2 * kPage);
}

std::string error_of(const MemoryNeeds& needs) {
  try {
    share_memory(needs);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(MemoryPlanTest, TooLittleIsOneLineWithTheNumbers) {
  MemoryNeeds needs = gpu();
  needs.adapters = 47 * kGb;
  const std::string error = error_of(needs);
  for (const char* part :
       {"of 80.00 GB 72.00 may be taken", "2.00 are", "weights take 20.00", "workspace 3.00",
        "graphs 0.09", "adapters 47.00", "keys and values 0.00", "--cuda-memory-fraction"}) {
    EXPECT_NE(error.find(part), std::string::npos) << part << ": " << error;
  }
  EXPECT_EQ(error.find('\n'), std::string::npos);
  needs.limit = needs.total;
  EXPECT_EQ(error_of(needs).find("--cuda-memory-fraction"), std::string::npos);
}

TEST(MemoryPlanTest, GivenPagesThatDoNotFit) {
  MemoryNeeds needs = gpu();
  needs.kv = 45 * kGb;
  EXPECT_NE(error_of(needs), "");
  needs.kv = 30 * kGb;
  EXPECT_EQ(error_of(needs), "");
  needs.kv = kPage - 1;
  EXPECT_NE(error_of(needs), "");
}

}  // namespace
}  // namespace lorax
