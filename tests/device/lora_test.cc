// The low-rank operations on every device and in both model dtypes, against the reference in
// double.
#include <gtest/gtest.h>

#include <cmath>
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

  std::mt19937 random_{17};
  Device& device_ = shared_device(std::get<0>(GetParam()));
  const DType dtype_ = std::get<1>(GetParam());
};

INSTANTIATE_TEST_SUITE_P(Devices, LoraTest,
                         ::testing::Combine(::testing::ValuesIn(available_devices()),
                                            ::testing::Values(DType::kFloat32, DType::kBFloat16)),
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
