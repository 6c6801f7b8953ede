// Products of 9 to 64 rows with low-rank parts (device/cuda/products/linear_hopper.cu), run by the
// emulator, against double arithmetic.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "cuda_builtins.h"

namespace {
int multiprocessors = 132;
}  // namespace

#define cudaOccupancyMaxActiveClusters(count, kernel, config) \
  (*(count) = multiprocessors / static_cast<int>((config)->gridDim.x), cudaSuccess)

// Under a name of its own beside the real one, and the shared memory that it declares extern.
#define cuda emulated
namespace lorax::cuda {
namespace {
alignas(1024) thread_local unsigned char raw_shared[227 << 10];
}  // namespace
}  // namespace lorax::cuda
#include "device/cuda/products/linear_hopper.cu"
#undef cuda

namespace lorax::emulated {

bool make_matrix_map(CUtensorMap& map, const void* data, int64_t rows, int64_t columns,
                     int64_t stride, int box_rows) {
  const MatrixMap matrix{static_cast<const uint16_t*>(data), rows, columns, stride, box_rows};
  static_assert(sizeof(matrix) <= sizeof(map));
  std::memcpy(&map, &matrix, sizeof(matrix));
  return true;
}

namespace {

enum class Mix { kOneAdapter, kSomeRowsNone, kHalfTheRows, kMany };

struct ProductCase {
  std::string name;
  int rows;
  std::vector<int64_t> columns;  // of each target; 60 columns without one follow
  int n;
  Mix mix;
  int parts;  // of A x
  int multiprocessors;
};

constexpr int kSlots = 9;
constexpr int kRanks[kSlots] = {16, 0, 3, 130, 17, 8, 64, 1, 512};

int slot_of(Mix mix, int row, int rows) {
  switch (mix) {
    case Mix::kOneAdapter:
      return 3;
    case Mix::kSomeRowsNone:
      return row * 7 % 10 - 1;
    case Mix::kHalfTheRows:
      return row < rows / 2 ? -1 : 8;
    case Mix::kMany:
      return row % 5 == 0 ? 1 : row * 3 % kSlots;
  }
  return -1;
}

std::ostream& operator<<(std::ostream& out, const ProductCase& c) { return out << c.name; }

class EmulatedLinearTest : public ::testing::TestWithParam<ProductCase> {
 protected:
  EmulatedLinearTest() {
    const ProductCase& c = GetParam();
    m_ = 60;
    for (int64_t columns : c.columns) m_ += columns;
    x_ = random_bfloat16(static_cast<size_t>(c.rows) * x_stride(), 1.0f);
    weight_ = random_bfloat16(static_cast<size_t>(m_ * c.n), 0.1f);
    make_adapters();
    make_rows();
  }

  size_t x_stride() const { return static_cast<size_t>(GetParam().n) + 8; }
  int targets() const { return static_cast<int>(GetParam().columns.size()); }

  std::vector<bfloat16> random_bfloat16(size_t n, float scale) {
    std::vector<bfloat16> values(n);
    for (bfloat16& value : values) value = from_float<bfloat16>(normal_(random_) * scale);
    return values;
  }
  std::vector<float> random_floats(size_t n) {
    std::vector<float> values(n);
    for (float& value : values) value = normal_(random_);
    return values;
  }

  void make_adapters() {
    entries_.resize(static_cast<size_t>(kSlots * targets()));
    factors_.reserve(entries_.size());
    vectors_.reserve(2 * entries_.size());
    for (int slot = 0; slot < kSlots; ++slot) {
      for (int target = 0; target < targets(); ++target) {
        LoraEntry& entry = entries_[static_cast<size_t>(slot * targets() + target)];
        entry.rank = kRanks[(slot + 2 * target) % kSlots];
        entry.scale = 0.3f + static_cast<float>(slot);
        if (entry.rank == 0) continue;
        const size_t columns = static_cast<size_t>(GetParam().columns[static_cast<size_t>(target)]);
        factors_.push_back(random_bfloat16(static_cast<size_t>(entry.rank) * columns, 1.0f));
        entry.b = factors_.back().data();
        if (slot % 2 == 1) entry.gain = vectors_.emplace_back(random_floats(columns)).data();
        if (slot % 3 == 2) entry.bias = vectors_.emplace_back(random_floats(columns)).data();
      }
    }
  }

  // Rows by adapter, filled up as a graph's are.
  void make_rows() {
    const ProductCase& c = GetParam();
    segments_ = {0};
    for (int slot = 0; slot < kSlots; ++slot) {
      const size_t before = rows_.size();
      for (int row = 0; row < c.rows; ++row) {
        if (slot_of(c.mix, row, c.rows) == slot) rows_.push_back(row);
      }
      if (rows_.size() == before) continue;
      segments_.push_back(static_cast<int32_t>(rows_.size()));
      slots_.push_back(slot);
    }
    with_adapter_ = rows_.size();
    rows_.resize(static_cast<size_t>(c.rows), 0);
    slots_.resize(static_cast<size_t>(c.rows), 0);
    segments_.resize(static_cast<size_t>(c.rows) + 1, static_cast<int32_t>(with_adapter_));
    h_.assign(static_cast<size_t>(c.parts * targets() * c.rows) * kMaxLoraRank, NAN);
    for (int part = 0; part < c.parts; ++part) {
      for (int target = 0; target < targets(); ++target) {
        for (size_t i = 0; i < with_adapter_; ++i) {
          const int rank = entry_of_row(rows_[i], target).rank;
          for (int k = 0; k < rank; ++k) h_at(part, target, i, k) = normal_(random_);
        }
      }
    }
  }

  const LoraEntry& entry_of_row(int row, int target) const {
    const int slot = slot_of(GetParam().mix, row, GetParam().rows);
    return entries_[static_cast<size_t>(slot * targets() + target)];
  }
  float& h_at(int part, int target, size_t i, int k) {
    const size_t rows = static_cast<size_t>(GetParam().rows);
    return h_[(static_cast<size_t>(part * targets() + target) * rows + i) * kMaxLoraRank +
              static_cast<size_t>(k)];
  }

  LoraArgs lora_args() {
    const ProductCase& c = GetParam();
    LoraArgs args;
    args.x = {x_.data(), DType::kBFloat16, static_cast<int64_t>(x_stride())};
    args.n = c.n;
    int64_t column = 0;
    for (int64_t columns : c.columns) {
      args.targets[args.n_targets] = {args.n_targets, column, columns};
      ++args.n_targets;
      column += columns;
    }
    args.rows = rows_.data();
    args.segments = segments_.data();
    args.slots = slots_.data();
    args.n_segments = static_cast<int>(slots_.size());
    args.last = c.rows;
    args.entries = entries_.data();
    args.modules = targets();
    args.h = h_.data();
    args.parts = c.parts;
    return args;
  }

  // What the element should be, and the size of what is added up for it.
  std::pair<double, double> expected(int row, int64_t column) {
    const ProductCase& c = GetParam();
    double sum = 0.0;
    for (int k = 0; k < c.n; ++k) {
      sum += double{to_float(x_[static_cast<size_t>(row) * x_stride() + static_cast<size_t>(k)])} *
             to_float(weight_[static_cast<size_t>(column * c.n + k)]);
    }
    double size = std::abs(sum);
    int target = 0;
    while (target < targets() && column >= c.columns[static_cast<size_t>(target)]) {
      column -= c.columns[static_cast<size_t>(target++)];
    }
    if (target == targets() || slot_of(c.mix, row, c.rows) < 0) return {sum, size};
    const LoraEntry& entry = entry_of_row(row, target);
    if (entry.rank == 0) return {sum, size};
    const size_t i = static_cast<size_t>(
        std::find(rows_.begin(), rows_.begin() + static_cast<int64_t>(with_adapter_), row) -
        rows_.begin());
    double added = 0.0;
    for (int k = 0; k < entry.rank; ++k) {
      double h = 0.0;
      for (int part = 0; part < c.parts; ++part) h += h_at(part, target, i, k);
      const int64_t at = (column / kLoraPanel * entry.rank + k) * kLoraPanel + column % kLoraPanel;
      added += h * entry.scale * to_float(static_cast<const bfloat16*>(entry.b)[at]);
    }
    sum += added;
    size += std::abs(added);
    if (entry.bias != nullptr) sum += entry.bias[column];
    if (entry.gain != nullptr) {
      sum *= entry.gain[column];
      size *= std::abs(entry.gain[column]);
    }
    return {sum, size};
  }

  std::mt19937 random_{1};
  std::normal_distribution<float> normal_;
  int64_t m_ = 0;
  std::vector<bfloat16> x_, weight_;
  std::vector<LoraEntry> entries_;
  std::vector<std::vector<bfloat16>> factors_;
  std::vector<std::vector<float>> vectors_;
  std::vector<int32_t> rows_, segments_, slots_;
  size_t with_adapter_ = 0;
  std::vector<float> h_;
};

TEST_P(EmulatedLinearTest, IsProductAndLowRankParts) {
  const ProductCase& c = GetParam();
  multiprocessors = c.multiprocessors;
  std::vector<bfloat16> out(static_cast<size_t>(c.rows * m_), from_float<bfloat16>(NAN));
  LinearArgs linear;
  linear.x = {x_.data(), DType::kBFloat16, static_cast<int64_t>(x_stride())};
  linear.weight = weight_.data();
  linear.out = {out.data(), DType::kBFloat16, m_};
  linear.rows = c.rows;
  linear.m = m_;
  linear.n = c.n;
  Stream stream;
  stream.hopper = true;
  stream.multiprocessors = c.multiprocessors;
  ASSERT_TRUE(linear_hopper(stream, linear, lora_args()));
  for (int row = 0; row < c.rows; ++row) {
    for (int64_t column = 0; column < m_; ++column) {
      const auto [want, size] = expected(row, column);
      // Rounded twice: the product, and what is added to it.
      ASSERT_NEAR(to_float(out[static_cast<size_t>(row * m_ + column)]), want,
                  0x1.8p-7 * (size + 1.0))
          << "row " << row << ", column " << column;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, EmulatedLinearTest,
    ::testing::Values(ProductCase{"OneAdapter", 64, {512, 256, 256}, 584, Mix::kOneAdapter, 3, 132},
                      ProductCase{"Seventeen", 17, {512}, 584, Mix::kSomeRowsNone, 1, 16},
                      ProductCase{"Nine", 9, {512}, 584, Mix::kSomeRowsNone, 2, 16},
                      ProductCase{"Half", 40, {256, 256}, 1040, Mix::kHalfTheRows, 8, 8},
                      ProductCase{"OneBlockATile", 64, {256, 256}, 584, Mix::kSomeRowsNone, 7, 4},
                      ProductCase{"Many", 64, {256, 512}, 520, Mix::kMany, 5, 4},
                      ProductCase{"TwoParts", 23, {512}, 1096, Mix::kSomeRowsNone, 2, 8}),
    [](const auto& param_info) { return param_info.param.name; });

}  // namespace
}  // namespace lorax::emulated
