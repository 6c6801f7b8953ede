// The low-rank operations on every device and in every model dtype, against the reference in
// double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <tuple>

#include "lora_case.h"

namespace lorax::testing {
namespace {

constexpr double kUnit = 0x1p-23;

size_t count(int64_t n) { return static_cast<size_t>(n); }

class LoraTest : public ::testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  Values random(DType dtype, int64_t n) { return random_values(random_, dtype, count(n)); }

  // That linear_lora is linear, then lora, for modules of that many columns: rows of one adapter,
  // of many and of none; ranks from 0 to 512.
  void expect_linear_lora(const std::vector<int64_t>& columns) {
    constexpr int64_t kInputs = 584;
    constexpr int64_t kRanks[] = {16, 0, 3, 130, 17, 8, 64, 1, 512};
    const int slots = static_cast<int>(std::size(kRanks));
    std::vector<LoraCase::Module> modules;
    for (int64_t n : columns) modules.push_back({.columns = n});
    std::vector<std::vector<int64_t>> ranks(std::size(kRanks));
    for (size_t slot = 0; slot < ranks.size(); ++slot) {
      for (size_t i = 0; i < columns.size(); ++i) {
        ranks[slot].push_back(kRanks[(slot + 2 * i) % ranks.size()]);
      }
    }
    LoraCase adapters(device_, dtype_, kInputs, modules, ranks, 14);
    const int64_t outputs = std::accumulate(columns.begin(), columns.end(), int64_t{0});
    const DeviceTensor weight(device_, dtype_, {outputs, kInputs},
                              random(dtype_, outputs * kInputs));
    for (int64_t rows : {3, 17, 40, 64, 70}) {
      const DeviceTensor wide_x(device_, dtype_, {rows, kInputs + 8},
                                random(dtype_, rows * (kInputs + 8)));
      const Tensor x = wide_x.tensor().slice(1, 8, kInputs + 8);
      const std::vector<int> one(count(rows), 3);
      std::vector<int> many, half(count(rows), -1);
      for (int row = 0; row < rows; ++row) many.push_back(row * 7 % (slots + 1) - 1);
      std::fill(half.begin() + rows / 2, half.end(), slots - 1);
      for (const std::vector<int>& pattern : {one, many, half}) {
        const LoraRows which = adapters.rows(pattern);
        const DeviceTensor got(device_, dtype_, {rows, outputs});
        device_.linear_lora(x, weight, adapters.targets(), which, got);
        const DeviceTensor want(device_, dtype_, {rows, outputs});
        device_.linear(x, weight, want);
        device_.lora(x, adapters.targets(), which, want);
        EXPECT_EQ(got.bytes(), want.bytes()) << rows << " rows, " << outputs << " outputs";
      }
    }
  }

  std::mt19937 random_{17};
  Device& device_ = shared_device(std::get<0>(GetParam()));
  const DType dtype_ = std::get<1>(GetParam());
};

INSTANTIATE_TEST_SUITE_P(Devices, LoraTest,
                         ::testing::Combine(::testing::ValuesIn(available_devices()),
                                            ::testing::ValuesIn(kModelDtypes)),
                         [](const auto& param_info) {
                           return std::get<0>(param_info.param) + "_" +
                                  std::string(name_of(std::get<1>(param_info.param)));
                         });

// Rows of slots in turns, in runs and without any; more rows than a job takes.
std::vector<std::vector<int>> row_patterns() {
  std::vector<int> mixed, long_run;
  for (int row = 0; row < 37; ++row) mixed.push_back(row * 7 % 6 - 1);
  for (int row = 0; row < 700; ++row) long_run.push_back(row < 300 ? 3 : row < 310 ? -1 : row % 2);
  return {{0}, {-1, 2}, {4, 4, 4, 1, 1}, mixed, long_run};
}

TEST_P(LoraTest, AddsEachRowsOwnFactors) {
  constexpr int64_t kInputs = 264;
  const std::vector<LoraCase::Module> modules = {{.columns = 96}, {.columns = 7}, {.columns = 130}};
  const std::vector<std::vector<int64_t>> ranks = {
      {1, 1, 1}, {16, 0, 8}, {3, 33, 0}, {64, 5, 17}, {0, 0, 0}};
  LoraCase adapters(device_, dtype_, kInputs, modules, ranks, 5);
  constexpr int64_t kOutputs = 96 + 7 + 130;
  for (const std::vector<int>& pattern : row_patterns()) {
    for (DType out_dtype : {DType::kFloat32, dtype_}) {
      const int64_t rows = static_cast<int64_t>(pattern.size());
      // x and out are slices of wider rows.
      const Values x = random(dtype_, rows * (kInputs + 8));
      const Values before = random(out_dtype, rows * (kOutputs + 3));
      const DeviceTensor wide_x(device_, dtype_, {rows, kInputs + 8}, x);
      const DeviceTensor wide_out(device_, out_dtype, {rows, kOutputs + 3}, before);
      device_.lora(wide_x.tensor().slice(1, 8, kInputs + 8), adapters.targets(),
                   adapters.rows(pattern), wide_out.tensor().slice(1, 0, kOutputs));

      Values inputs;
      for (int64_t row = 0; row < rows; ++row) {
        const auto begin = x.begin() + row * (kInputs + 8) + 8;
        inputs.insert(inputs.end(), begin, begin + kInputs);
      }
      const Values after = wide_out.download();
      int64_t column = 0;
      for (size_t module = 0; module < modules.size(); ++module) {
        Values got, want;
        for (int64_t row = 0; row < rows; ++row) {
          for (int64_t j = column; j < column + modules[module].columns; ++j) {
            got.push_back(after[count(row * (kOutputs + 3) + j)]);
            want.push_back(before[count(row * (kOutputs + 3) + j)]);
          }
        }
        for (size_t slot = 0; slot < ranks.size(); ++slot) {
          if (ranks[slot][module] == 0) continue;
          std::vector<bool> has;
          for (int adapter : pattern) has.push_back(adapter == static_cast<int>(slot));
          reference::add_low_rank(inputs, kInputs, adapters.factors(slot, module), has,
                                  modules[module].columns, want);
        }
        expect_close(got, want, rounding(out_dtype, 0.0, 2048 * kUnit));
        column += modules[module].columns;
      }
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t j = kOutputs; j < kOutputs + 3; ++j) {
          const size_t at = count(row * (kOutputs + 3) + j);
          ASSERT_EQ(after[at], before[at]);
        }
      }
    }
  }
}

TEST_P(LoraTest, RanksUpTo512) {
  constexpr int64_t kInputs = 520;
  LoraCase adapters(device_, dtype_, kInputs, {{.columns = 64}}, {{512}, {129}, {100}}, 6);
  const std::vector<int> pattern = {0, 1, 2, 0, 1};
  const Values x = random(dtype_, 5 * kInputs);
  const Values before = random(DType::kFloat32, 5 * 64);
  const DeviceTensor out(device_, DType::kFloat32, {5, 64}, before);
  device_.lora(DeviceTensor(device_, dtype_, {5, kInputs}, x), adapters.targets(),
               adapters.rows(pattern), out);
  Values want = before;
  for (size_t slot = 0; slot < 3; ++slot) {
    std::vector<bool> has;
    for (int adapter : pattern) has.push_back(adapter == static_cast<int>(slot));
    reference::add_low_rank(x, kInputs, adapters.factors(slot, 0), has, 64, want);
  }
  expect_close(out.download(), want, rounding(DType::kFloat32, 0.0, 2048 * kUnit));
}

// What `pattern` makes of `before`, one module after the other.
Values expected(const LoraCase& adapters, size_t slots, const std::vector<int64_t>& columns,
                const std::vector<int>& pattern, const Values& x, int64_t inputs,
                const Values& before) {
  const int64_t rows = static_cast<int64_t>(pattern.size());
  const int64_t outputs = std::accumulate(columns.begin(), columns.end(), int64_t{0});
  Values all = before;
  int64_t first = 0;
  for (size_t module = 0; module < columns.size(); ++module) {
    Values want;
    for (int64_t row = 0; row < rows; ++row) {
      const auto begin = before.begin() + row * outputs + first;
      want.insert(want.end(), begin, begin + columns[module]);
    }
    for (size_t slot = 0; slot < slots; ++slot) {
      if (adapters.factors(slot, module).a.empty()) continue;
      std::vector<bool> has;
      for (int adapter : pattern) has.push_back(adapter == static_cast<int>(slot));
      reference::add_low_rank(x, inputs, adapters.factors(slot, module), has, columns[module],
                              want);
    }
    for (int64_t row = 0; row < rows; ++row) {
      const auto begin = want.begin() + row * columns[module];
      std::copy(begin, begin + columns[module], all.begin() + row * outputs + first);
    }
    first += columns[module];
  }
  return all;
}

TEST_P(LoraTest, ManyAdaptersOfOneRowEach) {
  // More segments than a warp has lanes; every rank's remainder; the second of three modules that
  // share x belongs to no adapter.
  constexpr int64_t kInputs = 72;
  constexpr size_t kSlots = 64;
  const std::vector<int64_t> columns = {72, 16, 24};
  std::vector<std::vector<int64_t>> ranks;
  std::vector<int> pattern;
  for (int slot = 0; slot < static_cast<int>(kSlots); ++slot) {
    ranks.push_back({slot == 63 ? 512 : 1 + slot * 5 % 67, 0, slot % 4 == 0 ? 0 : 1 + slot % 19});
    pattern.push_back(slot * 37 % 64);
  }
  LoraCase adapters(device_, dtype_, kInputs,
                    {{.columns = columns[0]}, {.columns = columns[1]}, {.columns = columns[2]}},
                    ranks, 8);
  const Values x = random(dtype_, kSlots * kInputs);
  const Values before = random(dtype_, kSlots * 112);
  const DeviceTensor out(device_, dtype_, {kSlots, 112}, before);
  device_.lora(DeviceTensor(device_, dtype_, {kSlots, kInputs}, x), adapters.targets(),
               adapters.rows(pattern), out);
  const Values got = out.download();
  expect_close(got, expected(adapters, kSlots, columns, pattern, x, kInputs, before),
               rounding(dtype_, 0.0, 2048 * kUnit));
  for (size_t i = 0; i < got.size(); ++i) {
    if (i % 112 >= 72 && i % 112 < 88) {
      ASSERT_EQ(got[i], before[i]);
    }
  }
}

TEST_P(LoraTest, ThousandsOfRowsOfOneAdapter) {
  constexpr int64_t kInputs = 40, kRows = 6000;
  const std::vector<int64_t> columns = {8, 8, 8};
  LoraCase adapters(device_, dtype_, kInputs, {{.columns = 8}, {.columns = 8}, {.columns = 8}},
                    {{5, 3, 2}, {2, 1, 6}}, 9);
  std::vector<int> pattern(kRows, 1);
  for (size_t row = 0; row < 70; ++row) pattern[row * 40] = row % 2 == 0 ? 0 : -1;
  const Values x = random(dtype_, kRows * kInputs);
  const Values before = random(dtype_, kRows * 24);
  const DeviceTensor out(device_, dtype_, {kRows, 24}, before);
  device_.lora(DeviceTensor(device_, dtype_, {kRows, kInputs}, x), adapters.targets(),
               adapters.rows(pattern), out);
  expect_close(out.download(), expected(adapters, 2, columns, pattern, x, kInputs, before),
               rounding(dtype_, 0.0, 2048 * kUnit));
}

TEST_P(LoraTest, AnyWidthAndAlignment) {
  constexpr int64_t kInputs = 45, kStride = 51, kRows = 21;
  const std::vector<int64_t> columns = {33, 70};
  LoraCase adapters(device_, dtype_, kInputs, {{.columns = 33}, {.columns = 70}},
                    {{17, 4}, {1, 0}, {6, 30}}, 12);
  std::vector<int> pattern;
  for (int row = 0; row < kRows; ++row) pattern.push_back(row % 5 == 0 ? row % 2 : 2);
  const Values x = random(dtype_, kRows * kStride);
  const Values before = random(dtype_, kRows * 103);
  const DeviceTensor wide_x(device_, dtype_, {kRows, kStride}, x);
  const DeviceTensor out(device_, dtype_, {kRows, 103}, before);
  device_.lora(wide_x.tensor().slice(1, 3, 3 + kInputs), adapters.targets(), adapters.rows(pattern),
               out);
  Values narrow;
  for (int64_t row = 0; row < kRows; ++row) {
    const auto begin = x.begin() + row * kStride + 3;
    narrow.insert(narrow.end(), begin, begin + kInputs);
  }
  expect_close(out.download(), expected(adapters, 3, columns, pattern, narrow, kInputs, before),
               rounding(dtype_, 0.0, 2048 * kUnit));
}

// The products with A are as large and as small as float32 allows, and differ from rank to rank,
// far beyond what 16 bits hold of them.
TEST_P(LoraTest, ProductsOfAnySize) {
  constexpr int64_t kInputs = 64, kColumns = 72;
  for (double size : {0x1p-14, 1.0, 0x1p12}) {
    LoraCase adapters(device_, dtype_, kInputs, {{.columns = kColumns, .spread = 10}}, {{16}, {37}},
                      14);
    for (const std::vector<int>& pattern : {std::vector<int>{0, 1, 1}, std::vector<int>(70, 1)}) {
      const int64_t rows = static_cast<int64_t>(pattern.size());
      const Values x = random_values(random_, dtype_, count(rows * kInputs), size);
      const Values before(count(rows * kColumns), size);
      const DeviceTensor out(device_, DType::kFloat32, {rows, kColumns}, before);
      device_.lora(DeviceTensor(device_, dtype_, {rows, kInputs}, x), adapters.targets(),
                   adapters.rows(pattern), out);
      SCOPED_TRACE(size);
      expect_close(out.download(), expected(adapters, 2, {kColumns}, pattern, x, kInputs, before),
                   rounding(DType::kFloat32, 0.0, 128 * kUnit * size));
    }
  }
}

TEST_P(LoraTest, WidthsOfGemma2) {
  for (const auto& [inputs, outputs] : {std::pair<int64_t, int64_t>{3584, 192}, {14336, 64}}) {
    LoraCase adapters(device_, dtype_, inputs, {{.columns = outputs}}, {{16}, {9}}, 10);
    const std::vector<int> pattern = {0, 1, 0};
    const Values x = random(dtype_, 3 * inputs);
    const Values before = random(DType::kFloat32, 3 * outputs);
    const DeviceTensor out(device_, DType::kFloat32, {3, outputs}, before);
    device_.lora(DeviceTensor(device_, dtype_, {3, inputs}, x), adapters.targets(),
                 adapters.rows(pattern), out);
    expect_close(out.download(), expected(adapters, 2, {outputs}, pattern, x, inputs, before),
                 rounding(DType::kFloat32, 0.0, 4096 * kUnit));
  }
}

// Whatever stands beside a row, it comes out the same to the last bit.
TEST_P(LoraTest, RowsDoNotDependOnTheirBatch) {
  constexpr int64_t kInputs = 4096, kOutputs = 88, kRows = 700;
  LoraCase adapters(device_, dtype_, kInputs, {{.columns = 72}, {.columns = 8}, {.columns = 8}},
                    {{16, 1, 2}, {37, 3, 16}}, 11);
  const Values x = random(dtype_, kInputs);
  const Values before = random(DType::kFloat32, kOutputs);
  const auto run = [&](std::vector<int> pattern, size_t row) {
    const int64_t rows = static_cast<int64_t>(pattern.size());
    Values all_x = random(dtype_, rows * kInputs), all_before;
    for (int64_t i = 0; i < rows; ++i) {
      all_before.insert(all_before.end(), before.begin(), before.end());
    }
    std::copy(x.begin(), x.end(), all_x.begin() + static_cast<int64_t>(row) * kInputs);
    const DeviceTensor out(device_, DType::kFloat32, {rows, kOutputs}, all_before);
    device_.lora(DeviceTensor(device_, dtype_, {rows, kInputs}, all_x), adapters.targets(),
                 adapters.rows(pattern), out);
    const Values after = out.download();
    const auto begin = after.begin() + static_cast<int64_t>(row) * kOutputs;
    return Values(begin, begin + kOutputs);
  };
  const Values alone = run({1}, 0);
  EXPECT_EQ(run({0, 1, 0, 1, 1, -1, 1}, 4), alone);
  EXPECT_EQ(run(std::vector<int>(50, 1), 29), alone);
  EXPECT_EQ(run(std::vector<int>(kRows, 1), 333), alone);
}

TEST_P(LoraTest, LinearLoraIsOneAfterTheOther) {
  for (const std::vector<int64_t>& columns :
       std::vector<std::vector<int64_t>>{{512}, {256, 512, 256}, {96, 40}}) {
    expect_linear_lora(columns);
  }
}

// As many as are cut into fewer parts.
TEST_P(LoraTest, LinearLoraOfManyOutputs) {
  if (!device_.profile().is_asynchronous) return;  // minutes in a debug build
  for (const std::vector<int64_t>& columns :
       std::vector<std::vector<int64_t>>{{2304, 2560}, {4608, 4608}, {8704, 8448}}) {
    expect_linear_lora(columns);
  }
}

TEST_P(LoraTest, EmbeddingsLookUpTheirRows) {
  constexpr int64_t kVocabulary = 50, kWidth = 72;
  LoraCase adapters(device_, dtype_, kVocabulary, {{.columns = kWidth, .embedding = true}},
                    {{4}, {9}, {0}}, 7);
  const std::vector<int> pattern = {0, 1, -1, 2, 1, 0, 0};
  const std::vector<int> ids = {3, 49, 7, 0, 12, 3, 20};
  const int64_t rows = static_cast<int64_t>(ids.size());
  const Values before = random(DType::kFloat32, rows * kWidth);
  const DeviceTensor out(device_, DType::kFloat32, {rows, kWidth}, before);
  device_.lora_embedding(
      DeviceTensor(device_, DType::kInt32, {rows}, Values(ids.begin(), ids.end())), 1.5f, 0,
      adapters.rows(pattern), out);
  // A lookup is the product with a row of zeros and one 1.5.
  Values x(count(rows * kVocabulary), 0.0);
  for (int64_t row = 0; row < rows; ++row) x[count(row * kVocabulary + ids[count(row)])] = 1.5;
  Values want = before;
  for (size_t slot = 0; slot < 2; ++slot) {
    std::vector<bool> has;
    for (int adapter : pattern) has.push_back(adapter == static_cast<int>(slot));
    reference::add_low_rank(x, kVocabulary, adapters.factors(slot, 0), has, kWidth, want);
  }
  expect_close(out.download(), want, rounding(DType::kFloat32, 0.0, 64 * kUnit));
}

TEST_P(LoraTest, EmbeddingsOfAPrompt) {
  constexpr int64_t kVocabulary = 30, kWidth = 136, kRows = 150;
  LoraCase adapters(device_, dtype_, kVocabulary, {{.columns = kWidth, .embedding = true}},
                    {{5}, {24}}, 13);
  std::vector<int> pattern;
  Values ids, x(count(kRows * kVocabulary), 0.0);
  for (int row = 0; row < kRows; ++row) {
    pattern.push_back(row % 3 == 0 ? 0 : 1);
    ids.push_back(row * 11 % kVocabulary);
    x[count(row * kVocabulary + row * 11 % kVocabulary)] = 2.0;
  }
  const Values before = random(DType::kFloat32, kRows * kWidth);
  const DeviceTensor out(device_, DType::kFloat32, {kRows, kWidth}, before);
  device_.lora_embedding(DeviceTensor(device_, DType::kInt32, {kRows}, ids), 2.0f, 0,
                         adapters.rows(pattern), out);
  expect_close(out.download(), expected(adapters, 2, {kWidth}, pattern, x, kVocabulary, before),
               rounding(DType::kFloat32, 0.0, 64 * kUnit));
}

TEST_P(LoraTest, AddSiluOfSlices) {
  constexpr int64_t kRows = 3, kWidth = 24;
  const Values x = random(dtype_, kRows * 40), h = random(dtype_, kRows * 32);
  const Values bias = random(dtype_, kWidth);
  const DeviceTensor out(device_, dtype_, {kRows, kWidth});
  const DeviceTensor wide_x(device_, dtype_, {kRows, 40}, x),
      wide_h(device_, dtype_, {kRows, 32}, h);
  device_.add_silu(wide_x.tensor().slice(1, 8, 32), wide_h.tensor().slice(1, 0, kWidth),
                   DeviceTensor(device_, dtype_, {kWidth}, bias), out);
  Values narrow_x, narrow_h;
  for (int64_t row = 0; row < kRows; ++row) {
    narrow_x.insert(narrow_x.end(), x.begin() + row * 40 + 8, x.begin() + row * 40 + 32);
    narrow_h.insert(narrow_h.end(), h.begin() + row * 32, h.begin() + row * 32 + kWidth);
  }
  expect_close(out.download(), reference::add_silu(narrow_x, narrow_h, bias),
               rounding(dtype_, 8 * kUnit, 8 * kUnit));
}

TEST_P(LoraTest, AddSilu) {
  for (int64_t rows : {1, 5}) {
    for (int64_t width : {8, 33, 320}) {
      const Values x = random(dtype_, rows * width),
                   h = random_values(random_, dtype_, count(rows * width), 20.0);
      const Values bias = random(dtype_, width);
      const DeviceTensor out(device_, dtype_, {rows, width});
      device_.add_silu(DeviceTensor(device_, dtype_, {rows, width}, x),
                       DeviceTensor(device_, dtype_, {rows, width}, h),
                       DeviceTensor(device_, dtype_, {width}, bias), out);
      expect_close(out.download(), reference::add_silu(x, h, bias),
                   rounding(dtype_, 8 * kUnit, 8 * kUnit));
    }
  }
}

}  // namespace
}  // namespace lorax::testing
