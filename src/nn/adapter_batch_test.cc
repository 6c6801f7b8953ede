#include "nn/adapter_batch.h"
#include "device/factory/device_factory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <utility>

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

// Adapters have as many Medusa heads as they like; memory is measured for so many.
TEST(AdapterBatchDataTest, HeadsBeyondTheMostAreNotUsed) {
  const std::unique_ptr<Device> device = make_device({.name = "cpu", .threads = 1});
  AdapterTables tables(*device, /*modules=*/1, /*slots=*/3, DType::kFloat32);
  for (int32_t slot = 0; slot < 3; ++slot) {
    AdapterSlot content;
    content.lora.resize(1);
    content.medusa.resize(static_cast<size_t>(3 * slot));  // 0, 3, 6
    tables.set(slot, std::move(content));
  }
  const auto heads_of = [&](const Ids& slots, int64_t most) {
    AdapterBatchMetadata metadata;
    for (int32_t slot : slots) metadata.append(slot, 1);
    metadata.group();
    return AdapterBatchData(metadata, tables, {}, most).speculative_heads();
  };
  for (int64_t most = 0; most <= 8; ++most) {
    EXPECT_EQ(heads_of({kNoAdapter}, most), 0);
    EXPECT_EQ(heads_of({0}, most), 0);
    EXPECT_EQ(heads_of({1, kNoAdapter}, most), std::min<int64_t>(3, most));
    EXPECT_EQ(heads_of({0, 2, 1}, most), std::min<int64_t>(6, most));
  }
}

}  // namespace
}  // namespace lorax
