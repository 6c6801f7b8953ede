// The sampling operations of device/device.h on every device, against full sorts in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "device_tensor.h"
#include "sampling_reference.h"

namespace lorax::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Records in device memory.
template <typename T>
class DeviceRecords {
 public:
  DeviceRecords(Device& device, const std::vector<T>& records)
      : device_(&device), size_(records.size()), buffer_(device, bytes() + 1) {
    device.copy_from_host(buffer_.data(), records.data(), bytes());
    device.synchronize();
  }
  // Poisoned.
  DeviceRecords(Device& device, size_t size)
      : device_(&device), size_(size), buffer_(device, bytes() + 1) {
    const std::vector<char> poison(bytes(), '\xee');
    device.copy_from_host(buffer_.data(), poison.data(), bytes());
    device.synchronize();
  }

  T* data() const { return static_cast<T*>(buffer_.data()); }
  DeviceList<const T> list() const { return {data(), static_cast<int64_t>(size_)}; }
  std::vector<T> download() const {
    std::vector<T> records(size_);
    device_->copy_to_host(records.data(), buffer_.data(), bytes());
    return records;
  }

 private:
  size_t bytes() const { return size_ * sizeof(T); }

  Device* device_;
  size_t size_;
  Buffer buffer_;
};

// Kinds of rows.
enum class Shape { kNormal, kFlat, kTies, kHoles, kPeaked, kHuge };
constexpr Shape kShapes[] = {Shape::kNormal, Shape::kFlat,   Shape::kTies,
                             Shape::kHoles,  Shape::kPeaked, Shape::kHuge};

class SamplingTest : public ::testing::TestWithParam<std::string> {
 protected:
  // Columns beyond the logits: a row's end is not the next one's beginning.
  static constexpr int64_t kGap = 5;

  struct Logits {
    DeviceTensor storage;
    Tensor tensor;  // [rows, width], strided
    std::vector<Values> rows;
  };

  Values random_row(Shape shape, int64_t width) {
    Values row = random_values(random_, DType::kFloat32, static_cast<size_t>(width), 2.5);
    for (double& x : row) {
      if (shape == Shape::kFlat) x = 1.5;
      if (shape == Shape::kTies) x = std::round(x);
      if (shape == Shape::kHoles && random_() % 2 == 0) x = -kInfinity;
      if (shape == Shape::kHuge) x = rounded(x * 1e37, DType::kFloat32);
    }
    if (shape == Shape::kPeaked) row[random_() % row.size()] = 20.0;
    if (shape == Shape::kHoles) row[random_() % row.size()] = 1.0;
    return row;
  }

  Logits upload(const std::vector<Values>& rows) {
    const int64_t n = static_cast<int64_t>(rows.size());
    const int64_t width = static_cast<int64_t>(rows.front().size());
    Values all;
    for (const Values& row : rows) {
      all.insert(all.end(), row.begin(), row.end());
      // A NaN that nobody may look at.
      all.insert(all.end(), static_cast<size_t>(kGap), std::nan(""));
    }
    DeviceTensor storage(device_, DType::kFloat32, {n, width + kGap}, all);
    const Tensor tensor = storage.tensor().slice(1, 0, width);
    return {std::move(storage), tensor, rows};
  }

  std::vector<int32_t> sample(const Logits& logits, const std::vector<SampledRow>& rows) {
    const DeviceTensor ids(device_, DType::kInt32, {logits.tensor.dim(0)});
    device_.sample(logits.tensor, DeviceRecords(device_, rows).list(), ids);
    const Values values = ids.download();
    return {values.begin(), values.end()};
  }

  std::vector<RowStatistics> statistics(const Logits& logits) {
    const size_t n = logits.rows.size();
    const DeviceRecords<RowStatistics> out(device_, n);
    const DeviceTensor ids(device_, DType::kInt32, {static_cast<int64_t>(n)});
    device_.row_statistics(logits.tensor, ids, out.data());
    const Values argmax = ids.download();
    const std::vector<RowStatistics> got = out.download();
    for (size_t i = 0; i < n; ++i) EXPECT_EQ(got[i].argmax, argmax[i]);
    return got;
  }

  // Cuts of every kind, alone and together.
  SampledRow random_cuts() {
    const auto one_of = [&](std::initializer_list<float> values) {
      return values.begin()[random_() % values.size()];
    };
    SampledRow row;
    row.temperature = one_of({0.3f, 1.0f, 1.0f, 2.5f});
    row.top_k = static_cast<int32_t>(one_of({0.0f, 0.0f, 0.0f, 1.0f, 40.0f, 1000.0f}));
    row.top_p = one_of({1.0f, 1.0f, 0.95f, 0.5f, 0.01f});
    row.typical_p = one_of({1.0f, 1.0f, 0.9f, 0.3f});
    row.min_p = one_of({0.0f, 0.0f, 0.05f, 0.5f});
    row.unit = std::uniform_real_distribution<double>()(random_);
    return row;
  }

  Device& device_ = shared_device(GetParam());
  std::mt19937 random_{7};
};

// As from a row whose other logits are -infinity.
TEST_P(SamplingTest, OnlyAllowedIdsAreChosen) {
  constexpr int64_t kWidth = 1000;
  for (int round = 0; round < 12; ++round) {
    const Values row = random_row(Shape::kNormal, kWidth);
    std::vector<uint32_t> mask((kWidth + 31) / 32);
    Values masked = row;
    for (int64_t i = 0; i < kWidth; ++i) {
      const bool is_allowed = i == 999 || random_() % 3 == 0;
      if (is_allowed) {
        mask[static_cast<size_t>(i / 32)] |= uint32_t{1} << (i % 32);
      } else {
        masked[static_cast<size_t>(i)] = -kInfinity;
      }
    }
    const DeviceRecords<uint32_t> words(device_, mask);
    SampledRow cut = random_cuts();
    if (round == 0) cut.temperature = 0.0f;
    cut.row = 0;
    const std::vector<int32_t> want = sample(upload({masked}), {cut});
    cut.allowed = words.data();
    EXPECT_EQ(sample(upload({row}), {cut}), want) << "round " << round;
    EXPECT_GT(masked[static_cast<size_t>(want.front())], -kInfinity);
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, SamplingTest, ::testing::ValuesIn(available_devices()),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(SamplingTest, RowStatistics) {
  for (const int64_t width : {1, 2, 15, 33, 257, 1024, 2047, 8193, 40000}) {
    for (const size_t n : {1, 3, 40}) {
      std::vector<Values> rows;
      for (size_t i = 0; i < n; ++i) rows.push_back(random_row(kShapes[i % 6], width));
      const std::vector<RowStatistics> got = statistics(upload(rows));
      for (size_t i = 0; i < n; ++i) {
        const auto best = std::ranges::max_element(rows[i]);
        double sum = 0.0;
        for (double x : rows[i]) sum += std::exp(x - *best);
        EXPECT_EQ(got[i].is_usable, 1);
        EXPECT_EQ(got[i].argmax, best - rows[i].begin()) << "width " << width << " row " << i;
        EXPECT_EQ(got[i].max, *best);
        // Chains of up to 256 additions of weights: each may lose half a unit of their sum.
        EXPECT_NEAR(got[i].log_sum_exp, *best + std::log(sum),
                    256 * 0x1p-24 + 1e-15 * std::abs(*best));
      }
    }
  }
}

TEST_P(SamplingTest, RowsThatAreNotUsable) {
  for (const int64_t width : {1, 20, 3000, 20000}) {
    const size_t last = static_cast<size_t>(width - 1);
    std::vector<Values> rows(8, random_row(Shape::kNormal, width));
    rows[1][0] = std::nan("");
    rows[2][last] = std::nan("");
    rows[3][last / 2] = kInfinity;
    rows[4].assign(rows[4].size(), -kInfinity);
    rows[5].assign(rows[5].size(), std::nan(""));
    rows[6].assign(rows[6].size(), -kInfinity);
    rows[6][last] = std::nan("");
    const Logits logits = upload(rows);
    const std::vector<RowStatistics> got = statistics(logits);
    std::vector<SampledRow> choices;
    for (int32_t row = 0; row < 8; ++row) {
      choices.push_back({.row = row, .temperature = row % 2 == 0 ? 1.0f : 0.0f, .unit = 0.5});
    }
    const std::vector<int32_t> ids = sample(logits, choices);
    for (size_t row = 0; row < 8; ++row) {
      const bool is_usable = row == 0 || row == 7;
      EXPECT_EQ(got[row].is_usable, is_usable ? 1 : 0) << "width " << width << " row " << row;
      EXPECT_EQ(ids[row] >= 0, is_usable) << "width " << width << " row " << row;
      EXPECT_GE(got[row].argmax, 0);
      EXPECT_LT(got[row].argmax, width);
    }
  }
}

TEST_P(SamplingTest, GreedyTakesTheLowestIdAmongEquals) {
  for (const int64_t width : {1, 16, 17, 300, 5000, 20001}) {
    std::vector<Values> rows;
    std::vector<SampledRow> choices;
    for (int32_t row = 0; row < 12; ++row) {
      rows.push_back(random_row(kShapes[row % 6], width));
      // Cuts must not matter.
      choices.push_back({.row = row,
                         .temperature = 0.0f,
                         .top_k = row % 5,
                         .top_p = 0.1f,
                         .typical_p = 0.2f,
                         .min_p = 0.1f,
                         .unit = 0.999});
      if (row >= 6) choices.back().watermark = {.key = 3u + row, .share = 1u << 31, .delta = 2.0f};
    }
    const std::vector<int32_t> ids = sample(upload(rows), choices);
    for (size_t row = 0; row < rows.size(); ++row) {
      const Values want = reference::add_watermark(rows[row], choices[row].watermark);
      // Additions of delta round.
      Values in_float = want;
      for (double& x : in_float) x = rounded(x, DType::kFloat32);
      EXPECT_EQ(ids[row], std::ranges::max_element(in_float) - in_float.begin());
    }
  }
}

TEST_P(SamplingTest, DrawsFallWhereTheReferenceHasThem) {
  for (const int64_t width : {1, 2, 15, 16, 100, 1025, 2048, 17000}) {
    for (const size_t n : {1, 5, 120}) {
      std::vector<Values> rows;
      std::vector<SampledRow> choices;
      for (size_t i = 0; i < n; ++i) {
        rows.push_back(random_row(kShapes[i % 6], width));
        choices.push_back(random_cuts());
        choices.back().row = static_cast<int32_t>(i);
        if (i % 7 == 3) {
          choices.back().watermark = {
              .key = static_cast<uint32_t>(i), .share = 1u << 30, .delta = 1.5f};
        }
      }
      const std::vector<int32_t> ids = sample(upload(rows), choices);
      size_t exact = 0;
      for (size_t i = 0; i < n; ++i) {
        const Values logits = reference::add_watermark(rows[i], choices[i].watermark);
        ASSERT_GE(ids[i], 0);
        ASSERT_LT(ids[i], width);
        const auto is_possible = [&](double slack) -> bool {
          return reference::possible_draws(logits, choices[i], slack)[static_cast<size_t>(ids[i])];
        };
        const SampledRow& c = choices[i];
        EXPECT_TRUE(is_possible(2e-5))
            << "width " << width << " row " << i << " shape " << i % 6 << ": id " << ids[i]
            << ", temperature " << c.temperature << " top_k " << c.top_k << " top_p " << c.top_p
            << " typical_p " << c.typical_p << " min_p " << c.min_p << " unit " << c.unit;
        exact += is_possible(1e-12) ? 1 : 0;
      }
      EXPECT_GE(static_cast<double>(exact), 0.9 * static_cast<double>(n)) << "width " << width;
    }
  }
}

// Each id that is left, drawn from the middle of its place in the running sum: so the set and the
// probabilities are those of the reference.
TEST_P(SamplingTest, EveryIdThatIsLeftCanBeDrawn) {
  const std::vector<SampledRow> cuts = {
      {.top_k = 7},
      {.top_p = 0.8f},
      {.typical_p = 0.7f},
      {.min_p = 0.1f},
      {.temperature = 0.7f, .top_k = 30, .top_p = 0.9f, .typical_p = 0.95f, .min_p = 0.02f},
      {.temperature = 1.3f, .top_p = 0.9f, .typical_p = 0.5f},
      {.watermark = {.key = 9, .share = 1u << 31, .delta = 2.0f}, .top_p = 0.6f}};
  for (const Shape shape : kShapes) {
    const int64_t width = 200;
    const Values row = random_row(shape, width);
    for (const SampledRow& cut : cuts) {
      const Values logits = reference::add_watermark(row, cut.watermark);
      const Values p = reference::probabilities(logits, cut);
      std::vector<SampledRow> choices;
      std::vector<int32_t> want;
      double sum = 0.0;
      for (size_t id = 0; id < p.size(); ++id) {
        if (p[id] > 1e-6) {
          choices.push_back(cut);
          choices.back().row = static_cast<int32_t>(want.size());
          choices.back().unit = sum + p[id] / 2.0;
          want.push_back(static_cast<int32_t>(id));
        }
        sum += p[id];
      }
      EXPECT_EQ(sample(upload(std::vector<Values>(want.size(), row)), choices), want);
    }
  }
}

TEST_P(SamplingTest, LargeVocabulary) {
  constexpr int64_t kWidth = 256000;
  std::vector<Values> rows;
  std::vector<SampledRow> choices;
  const SampledRow cuts[] = {{.temperature = 0.8f}, {.top_k = 40, .top_p = 0.95f},
                             {.top_p = 0.9f},       {.typical_p = 0.9f},
                             {.top_k = 200000},     {.temperature = 0.0f}};
  for (int32_t i = 0; i < 12; ++i) {
    rows.push_back(random_row(i < 6 ? Shape::kNormal : Shape::kFlat, kWidth));
    choices.push_back(cuts[i % 6]);
    choices.back().row = i;
    choices.back().unit = 0.17 + 0.06 * i;
  }
  const std::vector<int32_t> ids = sample(upload(rows), choices);
  for (size_t i = 0; i < rows.size(); ++i) {
    ASSERT_GE(ids[i], 0);
    if (choices[i].temperature == 0.0f) {
      EXPECT_EQ(ids[i], std::ranges::max_element(rows[i]) - rows[i].begin());
    } else {
      EXPECT_TRUE(reference::possible_draws(rows[i], choices[i], 2e-5)[size_t(ids[i])]) << i;
    }
  }
}

TEST_P(SamplingTest, ExtremeParameters) {
  const std::vector<Values> rows(8, {1.0, 4.0, -kInfinity, 4.0, 3.0});
  const float least = std::numeric_limits<float>::denorm_min();
  const float most = std::numeric_limits<float>::max();
  const std::vector<SampledRow> choices = {
      {.row = 0, .temperature = least, .unit = 0.4},  // the two largest share it all
      {.row = 1, .temperature = least, .unit = 0.6},
      {.row = 2, .temperature = most, .unit = 0.99999},
      {.row = 3, .top_k = 1000000, .unit = 0.0},
      {.row = 4, .top_p = least, .unit = 0.9999},  // one is left: of equals the lowest id
      {.row = 5, .typical_p = least, .unit = 0.3},
      {.row = 6, .min_p = 1.0f, .unit = 0.9999},
      {.row = 7, .top_k = 1, .unit = std::nextafter(1.0, 0.0)}};
  const std::vector<int32_t> got = sample(upload(rows), choices);
  EXPECT_EQ(got[0], 1);
  EXPECT_EQ(got[1], 3);
  EXPECT_EQ(got[2], 4);
  EXPECT_EQ(got[3], 0);
  EXPECT_EQ(got[4], 1);
  EXPECT_GE(got[5], 0);
  EXPECT_EQ(got[6], 3);
  EXPECT_EQ(got[7], 3);  // both largest are left, the last of them is drawn
}

// A row's draw does not depend on its neighbours, their cuts or their number.
TEST_P(SamplingTest, ARowAloneAndAmongOthers) {
  constexpr int64_t kWidth = 1300;
  std::vector<Values> rows;
  std::vector<SampledRow> choices;
  for (int32_t i = 0; i < 300; ++i) {
    rows.push_back(random_row(kShapes[i % 6], kWidth));
    choices.push_back(random_cuts());
    choices.back().row = i;
  }
  const Logits logits = upload(rows);
  const std::vector<int32_t> together = sample(logits, choices);
  std::vector<SampledRow> backwards(choices.rbegin(), choices.rend());
  EXPECT_EQ(sample(logits, backwards), together);
  for (size_t i = 0; i < rows.size(); i += 23) {
    SampledRow alone = choices[i];
    alone.row = 0;
    EXPECT_EQ(sample(upload({rows[i]}), {alone}).front(), together[i]) << "row " << i;
  }
  // Rows that are not named keep what is there.
  const std::vector<int32_t> some = sample(logits, {choices[2], choices[5]});
  EXPECT_EQ(some[2], together[2]);
  EXPECT_EQ(some[3], -1);
}

TEST_P(SamplingTest, EditsAndBack) {
  for (const int64_t width : {1, 70, 3000}) {
    std::vector<Values> rows;
    std::vector<EditedRow> edited_rows;
    std::vector<LogitEdit> edits;
    for (int32_t row = 0; row < 9; ++row) {
      rows.push_back(random_row(kShapes[row % 5], width));
      if (row % 3 == 1) continue;  // without edits
      const int32_t begin = static_cast<int32_t>(edits.size());
      std::vector<int32_t> ids(static_cast<size_t>(width));
      std::iota(ids.begin(), ids.end(), 0);
      std::shuffle(ids.begin(), ids.end(), random_);
      for (int64_t i = 0; i < std::min<int64_t>(width, 1 + row * 150); ++i) {
        edits.push_back({.id = ids[static_cast<size_t>(i)],
                         .count = static_cast<int32_t>(random_() % 3),
                         .seen = static_cast<int32_t>(random_() % 2),
                         .bias = static_cast<float>(random_() % 3)});
      }
      edited_rows.push_back({.row = row,
                             .begin = begin,
                             .end = static_cast<int32_t>(edits.size()),
                             .repetition_penalty = row % 2 == 0 ? 1.3f : 0.8f,
                             .frequency_penalty = 0.7f,
                             .presence_penalty = -0.4f});
      if (row > 4) edited_rows.back().watermark = {.key = 4, .share = 1u << 31, .delta = 2.0f};
    }
    const Logits logits = upload(rows);
    const Values before = logits.storage.download();
    const DeviceRecords device_edits(device_, edits);
    const DeviceRecords device_rows(device_, edited_rows);
    const DeviceRecords<float> saved(device_, edits.size());
    device_.edit_logits(logits.tensor, device_rows.list(), device_edits.data(), saved.data());
    std::vector<Values> want = rows;
    for (const EditedRow& row : edited_rows) {
      for (int32_t i = row.begin; i < row.end; ++i) {
        double& x = want[static_cast<size_t>(row.row)][static_cast<size_t>(edits[size_t(i)].id)];
        x = reference::edited(x, edits[static_cast<size_t>(i)], row);
      }
    }
    const Values after = logits.storage.download();
    for (size_t row = 0; row < rows.size(); ++row) {
      for (size_t id = 0; id < rows[row].size(); ++id) {
        const double got = after[row * (rows[row].size() + kGap) + id];
        if (want[row][id] == -kInfinity) {
          EXPECT_EQ(got, -kInfinity);
        } else {
          EXPECT_NEAR(got, want[row][id], 2e-6 + 1e-6 * std::abs(want[row][id]));
        }
      }
    }
    device_.restore_logits(logits.tensor, device_rows.list(), device_edits.data(), saved.data());
    const Values restored = logits.storage.download();
    for (size_t i = 0; i < before.size(); ++i) {
      if (!std::isnan(before[i])) {
        EXPECT_EQ(restored[i], before[i]);
      }
    }
  }
}

TEST_P(SamplingTest, AnEditIsFiniteAtMost) {
  const Logits logits = upload({{3e38, 1.0, -3e38}});
  const DeviceRecords<LogitEdit> edits(
      device_, {{.id = 0, .bias = 3e38f}, {.id = 1, .seen = 1}, {.id = 2, .seen = 1}});
  const DeviceRecords<EditedRow> rows(device_,
                                      {{.row = 0, .end = 3, .repetition_penalty = 1e-39f}});
  const DeviceRecords<float> saved(device_, size_t{3});
  device_.edit_logits(logits.tensor, rows.list(), edits.data(), saved.data());
  const Values got = logits.storage.download();
  EXPECT_EQ(got[0], std::numeric_limits<float>::max());
  EXPECT_EQ(got[1], std::numeric_limits<float>::max());
  EXPECT_NEAR(got[2], -0.3, 1e-6);
}

TEST_P(SamplingTest, TopLogits) {
  for (const int64_t width : {1, 16, 40, 1000, 2048, 30000}) {
    std::vector<Values> rows;
    std::vector<TopRow> requests;
    int64_t places = 0;
    for (int32_t row = 0; row < 18; ++row) {
      rows.push_back(random_row(kShapes[row % 6], width));
      if (row % 4 == 2) continue;  // nothing asked
      const int64_t counts[] = {0, 1, 5, 20, 900, width};
      const int64_t count = std::min(width, counts[(row / 3) % 6]);
      requests.push_back({.row = row, .count = static_cast<int32_t>(count), .offset = places});
      places += count;
    }
    const DeviceRecords<TopLogit> out(device_, static_cast<size_t>(places));
    device_.top_logits(upload(rows).tensor, DeviceRecords(device_, requests).list(), out.data());
    const std::vector<TopLogit> all = out.download();
    for (const TopRow& request : requests) {
      const Values& row = rows[static_cast<size_t>(request.row)];
      std::vector<int32_t> order(row.size());
      std::iota(order.begin(), order.end(), 0);
      std::ranges::stable_sort(order, {}, [&](int32_t id) { return -row[size_t(id)]; });
      order.resize(static_cast<size_t>(request.count));
      std::erase_if(order, [&](int32_t id) { return row[size_t(id)] == -kInfinity; });
      std::multiset<int32_t> got;
      for (int64_t i = request.offset; i < request.offset + request.count; ++i) {
        const TopLogit& top = all[static_cast<size_t>(i)];
        if (top.id < 0) continue;
        got.insert(top.id);
        EXPECT_EQ(top.logit, row[static_cast<size_t>(top.id)]);
      }
      EXPECT_EQ(got, std::multiset<int32_t>(order.begin(), order.end()))
          << "width " << width << " row " << request.row << " count " << request.count;
    }
  }
}

TEST_P(SamplingTest, GatherLogits) {
  const std::vector<Values> rows = {{1, 2, 3}, {4, 5, 6}, {7, 8, 9}};
  const DeviceTensor out(device_, DType::kFloat32, {3});
  device_.gather_logits(upload(rows).tensor, DeviceTensor(device_, DType::kInt32, {3}, {2, -1, 0}),
                        out);
  const Values got = out.download();
  EXPECT_EQ(got[0], 3);
  EXPECT_TRUE(std::isnan(got[1]));
  EXPECT_EQ(got[2], 7);
}

}  // namespace
}  // namespace lorax::testing
