#include "nn/adapter_batch.h"

#include <gtest/gtest.h>

namespace lorax {
namespace {

using Ids = std::vector<int32_t>;

void expect_segments(const AdapterSegments& segments, const Ids& boundaries, const Ids& indices) {
  EXPECT_EQ(segments.boundaries(), boundaries);
  EXPECT_EQ(segments.indices(), indices);
}

AdapterSegments segments_of(const Ids& adapters) {
  AdapterSegments segments;
  for (const int32_t adapter : adapters) segments.append(adapter, 1);
  return segments;
}

// LoRAX's own cases (server/tests/utils/test_segments.py).
TEST(AdapterSegmentsTest, AreRunsOfEqualAdapters) {
  expect_segments(segments_of({0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 1, 1}), {0, 3, 5, 10, 12},
                  {0, 1, 2, 1});
  expect_segments(segments_of({}), {0}, {});
  expect_segments(segments_of({5}), {0, 1}, {5});
}

TEST(AdapterSegmentsTest, GoOnWhereTheyTouch) {
  AdapterSegments segments = segments_of({2, 1, 1, 1, 2, 2, 2, 1});
  segments.append(1, 2);
  segments.append(2, 3);
  expect_segments(segments, {0, 1, 4, 7, 10, 13}, {2, 1, 2, 1, 2});
}

TEST(AdapterBatchMetadataTest, GroupsRowsByAdapter) {
  AdapterBatchMetadata metadata;
  metadata.append(3, 2);
  metadata.append(kNoAdapter, 1);
  metadata.append(1, 1);
  metadata.append(3, 1);
  metadata.group();
  EXPECT_EQ(metadata.slots(), (Ids{1, 3}));
  EXPECT_EQ(metadata.rows(), (Ids{3, 0, 1, 4}));
  EXPECT_EQ(metadata.group_boundaries(), (Ids{0, 1, 4}));

  metadata.clear();
  metadata.append(kNoAdapter, 5);
  metadata.group();
  EXPECT_FALSE(metadata.has_adapters());
  EXPECT_EQ(metadata.segments().rows(), 5);
}

}  // namespace
}  // namespace lorax
