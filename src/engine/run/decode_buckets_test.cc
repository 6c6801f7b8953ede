#include "engine/run/decode_buckets.h"

#include <gtest/gtest.h>

#include <vector>

namespace lorax {
namespace {

std::vector<int64_t> sizes(int64_t most) {
  const DecodeBuckets buckets(most);
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < buckets.count(); ++i) rows.push_back(buckets.rows(i));
  return rows;
}

using Sizes = std::vector<int64_t>;

TEST(DecodeBucketsTest, EndWithTheMost) {
  EXPECT_EQ(sizes(1), (Sizes{1}));
  EXPECT_EQ(sizes(2), (Sizes{1, 2}));
  EXPECT_EQ(sizes(3), (Sizes{1, 2, 3}));
  EXPECT_EQ(sizes(5), (Sizes{1, 2, 4, 5}));
  EXPECT_EQ(sizes(32), (Sizes{1, 2, 4, 8, 16, 24, 32}));
  EXPECT_EQ(sizes(33), (Sizes{1, 2, 4, 8, 16, 24, 32, 33}));
}

TEST(DecodeBucketsTest, AreTheSmallestThatFit) {
  for (int64_t most : {1, 3, 8, 9, 63, 64, 200}) {
    const DecodeBuckets buckets(most);
    for (int64_t rows = 1; rows <= most; ++rows) {
      const int64_t index = buckets.index_for(rows);
      ASSERT_LT(index, buckets.count());
      EXPECT_GE(buckets.rows(index), rows);
      if (index > 0) {
        EXPECT_LT(buckets.rows(index - 1), rows);
      }
    }
  }
}

}  // namespace
}  // namespace lorax
