// The cases of LoRAX's radix allocator (router/src/radix.rs), in whole pages, and our own.
#include "engine/schedule/prefix_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

namespace lorax {
namespace {

using Tokens = std::vector<int32_t>;

class PrefixCacheTest : public ::testing::Test {
 protected:
  explicit PrefixCacheTest(int64_t blocks = 8, int64_t block_size = 2)
      : allocator_(blocks), cache_(allocator_, block_size), block_size_(block_size) {}

  // A request that computes all of its tokens. Returns its pages and how many tokens were found.
  std::pair<BlockTable, int64_t> run(const Tokens& tokens, const std::string& name_space = "",
                                     const PrefixStem& stem = {}) {
    BlockTable table(allocator_);
    const int64_t found = cache_.match(name_space, tokens, table, stem);
    const int64_t registered = table.size();
    const int64_t need = (static_cast<int64_t>(tokens.size()) + block_size_ - 1) / block_size_;
    while (table.size() < need) {
      EXPECT_TRUE(allocator_.free() > 0 || cache_.evict());
      EXPECT_TRUE(table.grow());
    }
    cache_.insert(name_space, tokens, registered, table, stem);
    return {std::move(table), found};
  }
  int64_t found(const Tokens& tokens, const std::string& name_space = "") {
    return run(tokens, name_space).second;
  }

  BlockAllocator allocator_;
  PrefixCache cache_;
  const int64_t block_size_;
};

TEST_F(PrefixCacheTest, WholePagesAreFound) {
  EXPECT_EQ(found({0, 1, 2, 3}), 0);
  EXPECT_EQ(allocator_.idle(), 2);
  EXPECT_EQ(found({0, 1, 2, 3, 4, 5}), 4);
  EXPECT_EQ(allocator_.idle(), 3);
  EXPECT_EQ(found({0, 1, 2, 9}), 2);
  EXPECT_EQ(found({0, 1, 2, 3, 4, 5, 6}), 6);
}

TEST_F(PrefixCacheTest, APageThatIsNotFullIsNotFound) {
  EXPECT_EQ(found({0, 1, 2}), 0);
  EXPECT_EQ(allocator_.idle(), 1);
  EXPECT_EQ(found({0, 1, 2, 3}), 2);
}

TEST_F(PrefixCacheTest, OneTokenIsAlwaysLeftToCompute) {
  EXPECT_EQ(found({0, 1, 2, 3}), 0);
  EXPECT_EQ(found({0, 1, 2, 3}), 2);
  EXPECT_EQ(found({0, 1}), 0);
  EXPECT_EQ(found({0}), 0);
}

TEST_F(PrefixCacheTest, AStemIsOfAnotherNamespace) {
  const PrefixStem stem = {.name_space = "base", .tokens = 3};  // one page, and a part of one
  const Tokens tokens = {0, 1, 2, 3, 4};
  EXPECT_EQ(found(tokens, "base"), 0);
  EXPECT_EQ(run(tokens, "a", stem).second, 2);
  EXPECT_EQ(run(tokens, "a", stem).second, 4);
  EXPECT_EQ(run(tokens, "b", stem).second, 2);
  EXPECT_EQ(found(tokens, "a"), 0);
  EXPECT_EQ(found(tokens, "base"), 4);
  while (cache_.evict()) {
  }
  EXPECT_EQ(allocator_.free(), allocator_.blocks());
  EXPECT_EQ(run(tokens, "a", stem).second, 0);
  EXPECT_EQ(found(tokens, "base"), 2);
}

TEST_F(PrefixCacheTest, NamespacesAreApart) {
  EXPECT_EQ(found({0, 1, 2}, "a"), 0);
  EXPECT_EQ(found({0, 1, 2}, "b"), 0);
  EXPECT_EQ(found({0, 1, 2}, ""), 0);
  EXPECT_EQ(found({0, 1, 2}, "a"), 2);
  EXPECT_EQ(found({0, 1, 2}, "c"), 0);
}

TEST_F(PrefixCacheTest, EqualPagesBehindOthersAreOthers) {
  found({0, 1, 5, 5, 0});
  EXPECT_EQ(found({7, 7, 5, 5, 0}), 0);
  EXPECT_EQ(found({5, 5, 0}), 0);
}

// Of two that compute the same beside each other, the second takes over the pages of the first.
TEST_F(PrefixCacheTest, PagesComputedTwiceAreHeldOnce) {
  BlockTable a(allocator_);
  BlockTable b(allocator_);
  for (BlockTable* table : {&a, &b}) {
    table->grow();
    table->grow();
  }
  const Tokens tokens = {0, 1, 2, 3};
  EXPECT_EQ(cache_.insert("", tokens, 0, a), 2);
  EXPECT_EQ(allocator_.in_use(), 4);
  EXPECT_EQ(cache_.insert("", tokens, 0, b), 2);
  EXPECT_EQ(allocator_.in_use(), 2);
  EXPECT_TRUE(std::ranges::equal(a.ids(), b.ids()));
}

TEST_F(PrefixCacheTest, InsertGoesOnWhereItStopped) {
  BlockTable table(allocator_);
  for (int i = 0; i < 3; ++i) table.grow();
  const Tokens tokens = {0, 1, 2, 3, 4, 5};
  int64_t registered = cache_.insert("", std::span(tokens).first(3), 0, table);
  EXPECT_EQ(registered, 1);
  registered = cache_.insert("", std::span(tokens).first(3), registered, table);
  EXPECT_EQ(registered, 1);
  registered = cache_.insert("", tokens, registered, table);
  EXPECT_EQ(registered, 3);
  table.clear();
  EXPECT_EQ(found({0, 1, 2, 3, 4, 5, 6}), 6);
}

TEST_F(PrefixCacheTest, TheLeastRecentlyUsedLeafGoesFirst) {
  found({0, 1, 2, 3});     // pages of the first
  found({0, 1, 8, 8});     // a branch of it
  found({5, 5});           // another beginning
  found({0, 1, 2, 3, 7});  // the first is used again
  ASSERT_EQ(allocator_.idle(), 4);
  EXPECT_TRUE(cache_.evict());  // 8 8
  EXPECT_EQ(found({0, 1, 8, 8, 0}), 2);
  EXPECT_EQ(allocator_.idle(), 4);  // it is back
  EXPECT_TRUE(cache_.evict());      // 5 5
  EXPECT_TRUE(cache_.evict());      // 2 3
  EXPECT_TRUE(cache_.evict());      // 8 8
  EXPECT_EQ(found({0, 1, 9}), 2);   // their beginning is the last
  EXPECT_TRUE(cache_.evict());
  EXPECT_FALSE(cache_.evict());
  EXPECT_EQ(allocator_.free(), 8);
}

TEST_F(PrefixCacheTest, PagesInUseAreNotEvicted) {
  auto [table, found_tokens] = run({0, 1, 2, 3});
  EXPECT_FALSE(cache_.evict());
  EXPECT_EQ(found({0, 1, 2, 3, 4, 5}), 4);
  EXPECT_TRUE(cache_.evict());
  EXPECT_FALSE(cache_.evict());
  table.clear();
  EXPECT_TRUE(cache_.evict());
  EXPECT_TRUE(cache_.evict());
}

// Random requests against a plain list of what must be known.
TEST(PrefixCacheRandomTest, FindsWhatWasComputedAndNotEvicted) {
  constexpr int64_t kBlocks = 64;
  BlockAllocator allocator(kBlocks);
  PrefixCache cache(allocator, 2);
  std::mt19937 random(3);
  std::vector<Tokens> content(kBlocks);  // of each page: all tokens up to its end
  std::vector<std::pair<BlockTable, Tokens>> running;
  for (int round = 0; round < 20000; ++round) {
    if (!running.empty() && random() % 2 == 0) {
      std::swap(running.back(), running[random() % running.size()]);
      running.pop_back();
      continue;
    }
    Tokens tokens(1 + random() % 12);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 2);
    BlockTable table(allocator);
    int64_t registered = cache.match("", tokens, table) / 2;
    ASSERT_LT(2 * table.size(), static_cast<int64_t>(tokens.size()));
    for (int64_t i = 0; i < table.size(); ++i) {
      const auto& known = content[static_cast<size_t>(table.ids()[static_cast<size_t>(i)])];
      ASSERT_EQ(known, Tokens(tokens.begin(), tokens.begin() + 2 * (i + 1)));
    }
    const int64_t pages = static_cast<int64_t>(tokens.size()) / 2;
    bool fits = true;
    while (fits && table.size() < pages) {
      fits = allocator.free() > 0 || cache.evict();
      if (fits) table.grow();
    }
    if (!fits) continue;
    for (int64_t i = registered; i < pages; ++i) {
      content[static_cast<size_t>(table.ids()[static_cast<size_t>(i)])] =
          Tokens(tokens.begin(), tokens.begin() + 2 * (i + 1));
    }
    registered = cache.insert("", tokens, registered, table);
    ASSERT_EQ(registered, pages);
    running.emplace_back(std::move(table), tokens);
  }
  running.clear();
  EXPECT_EQ(allocator.in_use(), 0);
}

}  // namespace
}  // namespace lorax
