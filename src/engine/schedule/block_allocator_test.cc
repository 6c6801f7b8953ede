#include "engine/schedule/block_allocator.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <vector>

namespace lorax {
namespace {

std::vector<int32_t> ids_of(const BlockTable& table) {
  return {table.ids().begin(), table.ids().end()};
}

TEST(BlockAllocatorTest, HandsOutEachPageOnceAndTakesThemBack) {
  BlockAllocator allocator(3);
  {
    BlockTable a(allocator);
    BlockTable b(allocator);
    EXPECT_TRUE(a.grow());
    EXPECT_TRUE(b.grow());
    EXPECT_TRUE(a.grow());
    EXPECT_FALSE(b.grow());
    EXPECT_EQ(ids_of(a), (std::vector<int32_t>{0, 2}));
    EXPECT_EQ(ids_of(b), (std::vector<int32_t>{1}));
    EXPECT_EQ(allocator.in_use(), 3);
    EXPECT_EQ(allocator.free(), 0);
  }
  EXPECT_EQ(allocator.in_use(), 0);
  EXPECT_EQ(allocator.free(), 3);
}

TEST(BlockAllocatorTest, ASharedPageIsFreeWhenTheLastTableLetsItGo) {
  BlockAllocator allocator(2);
  BlockTable a(allocator);
  a.grow();
  std::optional<BlockTable> b(allocator);
  b->share(a.ids()[0]);
  EXPECT_EQ(allocator.uses(0), 2);
  EXPECT_EQ(allocator.in_use(), 1);
  a.clear();
  EXPECT_EQ(allocator.free(), 1);
  b.reset();
  EXPECT_EQ(allocator.free(), 2);
}

TEST(BlockAllocatorTest, AMovedTableHoldsThePages) {
  BlockAllocator allocator(2);
  BlockTable a(allocator);
  a.grow();
  BlockTable b(std::move(a));
  BlockTable c(allocator);
  c.grow();
  EXPECT_EQ(allocator.in_use(), 2);
  c = std::move(b);  // lets its own page go
  EXPECT_EQ(allocator.in_use(), 1);
  EXPECT_EQ(ids_of(c), (std::vector<int32_t>{0}));
}

TEST(BlockAllocatorTest, KeptPagesBecomeIdleInTheOrderInWhichTheyAreLetGo) {
  BlockAllocator allocator(4);
  BlockTable a(allocator);
  for (int i = 0; i < 3; ++i) a.grow();
  BlockTable b(allocator);
  b.share(0);
  for (int32_t block : {0, 1, 2}) allocator.keep(block);
  a.clear();  // the last first: 2, 1; 0 is still in use
  EXPECT_EQ(allocator.idle(), 2);
  EXPECT_EQ(allocator.in_use(), 1);
  EXPECT_EQ(allocator.oldest_idle(), 2);
  b.clear();
  EXPECT_EQ(allocator.idle(), 3);
  BlockTable c(allocator);
  c.share(1);  // in use again
  EXPECT_EQ(allocator.idle(), 2);
  allocator.drop_idle(2);
  EXPECT_EQ(allocator.oldest_idle(), 0);
  allocator.drop_idle(0);
  EXPECT_EQ(allocator.oldest_idle(), BlockAllocator::kNone);
  c.clear();
  EXPECT_EQ(allocator.oldest_idle(), 1);
  allocator.drop_idle(1);
  EXPECT_EQ(allocator.free(), 4);
}

TEST(BlockAllocatorTest, ReplaceLetsTheOldPageGo) {
  BlockAllocator allocator(2);
  BlockTable a(allocator);
  a.grow();
  BlockTable b(allocator);
  b.grow();
  b.replace(0, 0);
  EXPECT_EQ(allocator.uses(0), 2);
  EXPECT_EQ(allocator.free(), 1);
}

TEST(BlockAllocatorDeathTest, PagesThatOutliveTheAllocatorAreABug) {
  EXPECT_DEATH(
      {
        auto allocator = std::make_unique<BlockAllocator>(1);
        BlockTable table(*allocator);
        table.grow();
        allocator.reset();
      },
      "outlive");
}

}  // namespace
}  // namespace lorax
