// What only the CPU promises: the bits of a row depend on nothing but its own inputs, and a step
// that has run once allocates nothing when it runs again.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <new>
#include <numeric>
#include <random>

#include "attention_case.h"
#include "device/factory/device_factory.h"
#include "device_tensor.h"
#include "lora_case.h"

// Counts the allocations of the whole program.
static std::atomic<int64_t> allocations{0};

void* operator new(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void* operator new(size_t size, std::align_val_t alignment) {
  ++allocations;
  const size_t unit = static_cast<size_t>(alignment);
  if (void* memory = std::aligned_alloc(unit, (size + unit - 1) / unit * unit)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace lorax::testing {
namespace {

using Bytes = std::vector<char>;

Bytes part(const Bytes& bytes, int64_t rows, int64_t begin, int64_t end) {
  const int64_t row = static_cast<int64_t>(bytes.size()) / rows;
  return Bytes(bytes.begin() + begin * row, bytes.begin() + end * row);
}

std::unique_ptr<Device> cpu(int threads) {
  return make_device({.name = "cpu", .threads = threads});
}

// ---- All operations but attention -------------------------------------------------------------

// An operation on rows: run(device, rows [begin, end) of the inputs) returns the bytes of its
// output's rows.
struct RowOperation {
  std::string name;
  std::function<Bytes(Device& device, int64_t begin, int64_t end)> run;
};

constexpr int64_t kRows = 67;
constexpr int64_t kWidth = 333;  // no multiple of a vector

// The rows [begin, end) of [rows, width] random values, on a device.
DeviceTensor random_rows(Device& device, DType dtype, int64_t begin, int64_t end, int64_t width,
                         uint32_t seed) {
  std::mt19937 random(seed);
  const Values all = random_values(random, dtype, static_cast<size_t>(kRows * width), 2.0);
  return DeviceTensor(device, dtype, {end - begin, width},
                      Values(all.begin() + begin * width, all.begin() + end * width));
}

DeviceTensor row_numbers(Device& device, DType dtype, int64_t begin, int64_t end) {
  Values numbers(static_cast<size_t>(end - begin));
  std::iota(numbers.begin(), numbers.end(), begin);
  return DeviceTensor(device, dtype, {end - begin}, numbers);
}

std::vector<RowOperation> row_operations(DType dtype) {
  const DType f32 = DType::kFloat32;
  return {
      {"embedding",
       [=](Device& device, int64_t begin, int64_t end) {
         const DeviceTensor table = random_rows(device, dtype, 0, kRows, kWidth, 1);
         const DeviceTensor out(device, f32, {end - begin, kWidth});
         device.embedding(row_numbers(device, DType::kInt32, begin, end), table, 1.7f, out);
         return out.bytes();
       }},
      {"rms_norm",
       [=](Device& device, int64_t begin, int64_t end) {
         const DeviceTensor x = random_rows(device, dtype, begin, end, kWidth, 1);
         const DeviceTensor weight = random_rows(device, f32, 0, 1, kWidth, 2);
         const DeviceTensor out(device, dtype, {end - begin, kWidth});
         device.rms_norm(x, weight.tensor().view({kWidth}), 1e-6f, out);
         return out.bytes();
       }},
      {"rms_norm_add",
       [=](Device& device, int64_t begin, int64_t end) {
         const DeviceTensor x = random_rows(device, dtype, begin, end, kWidth, 1);
         const DeviceTensor weight = random_rows(device, f32, 0, 1, kWidth, 2);
         const DeviceTensor residual = random_rows(device, f32, begin, end, kWidth, 3);
         device.rms_norm_add(x, weight.tensor().view({kWidth}), 1e-6f, residual);
         return residual.bytes();
       }},
      {"linear",
       [=](Device& device, int64_t begin, int64_t end) {
         const DeviceTensor x = random_rows(device, dtype, begin, end, kWidth, 1);
         const DeviceTensor weight = random_rows(device, dtype, 0, kRows, kWidth, 2);
         const DeviceTensor out(device, f32, {end - begin, kRows});
         device.linear(x, weight, out);
         return out.bytes();
       }},
      {"lora",
       [=](Device& device, int64_t begin, int64_t end) {
         LoraCase adapters(device, dtype, kWidth, {{.columns = 100}, {.columns = 30}},
                           {{16, 3}, {0, 33}, {70, 5}}, 1);
         std::vector<int> slots;
         for (int64_t row = begin; row < end; ++row) slots.push_back(static_cast<int>(row % 4) - 1);
         const DeviceTensor x = random_rows(device, dtype, begin, end, kWidth, 1);
         const DeviceTensor out = random_rows(device, dtype, begin, end, 130, 2);
         device.lora(x, adapters.targets(), adapters.rows(slots), out);
         return out.bytes();
       }},
      {"lora_embedding",
       [=](Device& device, int64_t begin, int64_t end) {
         LoraCase adapters(device, dtype, kRows, {{.columns = kWidth, .embedding = true}},
                           {{16}, {0}, {7}}, 1);
         std::vector<int> slots;
         for (int64_t row = begin; row < end; ++row) slots.push_back(static_cast<int>(row % 4) - 1);
         const DeviceTensor out = random_rows(device, f32, begin, end, kWidth, 2);
         device.lora_embedding(row_numbers(device, DType::kInt32, begin, end), 1.7f, 0,
                               adapters.rows(slots), out);
         return out.bytes();
       }},
      {"add_silu",
       [=](Device& device, int64_t begin, int64_t end) {
         const DeviceTensor x = random_rows(device, dtype, begin, end, kWidth, 1);
         const DeviceTensor h = random_rows(device, dtype, begin, end, kWidth, 2);
         const DeviceTensor bias = random_rows(device, dtype, 0, 1, kWidth, 3);
         const DeviceTensor out(device, dtype, {end - begin, kWidth});
         device.add_silu(x, h, bias.tensor().view({kWidth}), out);
         return out.bytes();
       }},
      {"rotary",
       [=](Device& device, int64_t begin, int64_t end) {
         const DeviceTensor x = random_rows(device, dtype, begin, end, 3 * 40, 1);
         const DeviceTensor cos = random_rows(device, f32, 0, kRows, 20, 2);
         const DeviceTensor sin = random_rows(device, f32, 0, kRows, 20, 3);
         device.rotary(x.tensor().split_last(3, 40), row_numbers(device, DType::kInt32, begin, end),
                       cos, sin);
         return x.bytes();
       }},
      {"store_kv",
       [=](Device& device, int64_t begin, int64_t end) {
         const DeviceTensor k = random_rows(device, dtype, begin, end, 2 * 24, 1);
         const DeviceTensor v = random_rows(device, dtype, begin, end, 2 * 24, 2);
         const DeviceTensor keys(device, dtype, {kRows, 1, 2, 24});
         const DeviceTensor values(device, dtype, {kRows, 1, 2, 24});
         device.store_kv(k.tensor().split_last(2, 24), v.tensor().split_last(2, 24),
                         row_numbers(device, DType::kInt64, begin, end), {keys, values});
         return part(values.bytes(), kRows, begin, end);
       }},
      {"gelu_tanh_mul",
       [=](Device& device, int64_t begin, int64_t end) {
         const DeviceTensor gate_up = random_rows(device, dtype, begin, end, 2 * kWidth, 1);
         const DeviceTensor out(device, dtype, {end - begin, kWidth});
         device.gelu_tanh_mul(gate_up, out);
         return out.bytes();
       }},
      {"softcap",
       [=](Device& device, int64_t begin, int64_t end) {
         const DeviceTensor x = random_rows(device, f32, begin, end, kWidth, 1);
         device.softcap(x, 3.0f);
         return x.bytes();
       }},
      {"gather_rows",
       [=](Device& device, int64_t begin, int64_t end) {
         const DeviceTensor x = random_rows(device, dtype, 0, kRows, kWidth, 1);
         const DeviceTensor out(device, dtype, {end - begin, kWidth});
         device.gather_rows(x, row_numbers(device, DType::kInt32, begin, end), out);
         return out.bytes();
       }},
  };
}

TEST(CpuRowsTest, BitsDoNotDependOnOtherRowsOrThreads) {
  for (DType dtype : kModelDtypes) {
    for (const RowOperation& operation : row_operations(dtype)) {
      SCOPED_TRACE(operation.name + " " + std::string(name_of(dtype)));
      const Bytes whole = operation.run(*cpu(1), 0, kRows);
      for (int threads : {1, 2, 5}) {
        const auto device = cpu(threads);
        EXPECT_TRUE(operation.run(*device, 0, kRows) == whole) << threads << " threads";
        for (const auto& [begin, end] : {std::pair{0, 1},
                                         {5, 6},
                                         {66, 67},
                                         {1, 3},
                                         {2, 6},
                                         {3, 11},
                                         {0, 16},
                                         {7, 40},
                                         {2, 66}}) {
          EXPECT_TRUE(operation.run(*device, begin, end) == part(whole, kRows, begin, end))
              << "rows " << begin << " to " << end << ", " << threads << " threads";
        }
      }
    }
  }
}

// ---- Attention --------------------------------------------------------------------------------

const std::vector<AttentionCase>& attention_cases() {
  static const std::vector<AttentionCase> kCases = {
      {"Plain", {4, 2, 64}, 16, {0.125f, 0.0f, 0}, {{150, 150}, {40, 300}, {1, 77}}},
      {"Capped window", {4, 2, 64}, 16, {0.125f, 50.0f, 90}, {{150, 150}, {40, 300}, {1, 77}}},
      {"Small window", {6, 2, 40}, 3, {0.125f, 0.0f, 5}, {{150, 150}, {40, 300}, {1, 77}}},
      {"Gemma 2", {8, 4, 256}, 16, {0.0625f, 50.0f, 0}, {{70, 1100}, {3, 64}}},
      {"Sharp", {3, 1, 16}, 16, {1.0f, 0.0f, 0}, {{60, 2070}, {1, 3000}}, 4.0},
      {"Long window", {2, 1, 32}, 16, {0.2f, 30.0f, 1500}, {{60, 2070}, {1, 3100}}},
  };
  return kCases;
}

// Each piece of the whole batch must have the bits it has in `whole`.
void expect_same_bits(const AttentionInputs& inputs, const std::vector<AttentionPiece>& pieces,
                      const std::vector<std::vector<Bytes>>& whole) {
  const int64_t rows = std::accumulate(
      pieces.begin(), pieces.end(), int64_t{0},
      [](int64_t sum, const AttentionPiece& piece) { return sum + piece.end - piece.begin; });
  const Bytes out = inputs.run(pieces).bytes();
  int64_t at = 0;
  for (const AttentionPiece& piece : pieces) {
    for (int row = piece.begin; row < piece.end; ++row, ++at) {
      ASSERT_TRUE(part(out, rows, at, at + 1) ==
                  whole[static_cast<size_t>(piece.sequence)][static_cast<size_t>(row)])
          << "row " << row << " of sequence " << piece.sequence << " in rows " << piece.begin
          << " to " << piece.end << " with " << pieces.size() - 1 << " others";
    }
  }
}

// The bytes of the output rows of every sequence, all computed in one call on one thread.
std::vector<std::vector<Bytes>> whole_batch(DType dtype, const AttentionCase& test_case) {
  const auto device = cpu(1);
  const AttentionInputs inputs(*device, dtype, test_case);
  const auto pieces = inputs.whole();
  const Bytes out = inputs.run(pieces).bytes();
  const int64_t rows =
      std::accumulate(pieces.begin(), pieces.end(), int64_t{0},
                      [](int64_t sum, const AttentionPiece& piece) { return sum + piece.end; });
  std::vector<std::vector<Bytes>> result;
  int64_t at = 0;
  for (const AttentionPiece& piece : pieces) {
    auto& sequence = result.emplace_back();
    for (int row = 0; row < piece.end; ++row, ++at) sequence.push_back(part(out, rows, at, at + 1));
  }
  return result;
}

TEST(CpuRowsTest, AttentionBitsDoNotDependOnChunksOthersOrThreads) {
  for (DType dtype : kModelDtypes) {
    for (const AttentionCase& test_case : attention_cases()) {
      SCOPED_TRACE(test_case.name + " " + std::string(name_of(dtype)));
      const auto whole = whole_batch(dtype, test_case);
      for (int threads : {1, 2, 5}) {
        const auto device = cpu(threads);
        const AttentionInputs inputs(*device, dtype, test_case);
        expect_same_bits(inputs, inputs.whole(), whole);
        for (const AttentionPiece& piece : inputs.whole()) {
          for (int row = 0; row < piece.end; row += 1 + row / 8) {  // as decode sees it
            expect_same_bits(inputs, {{piece.sequence, row, row + 1}}, whole);
          }
          for (int chunk : {2, 7, 33}) {
            for (int row = 0; row < piece.end; row += chunk) {
              expect_same_bits(inputs, {{piece.sequence, row, std::min(piece.end, row + chunk)}},
                               whole);
            }
          }
        }
      }
    }
  }
}

TEST(CpuRowsTest, AttentionRowsNeverTouchKeysThatTheyDoNotSee) {
  // NaN in the last token must not reach the rows before it; NaN in the first token must not reach
  // the rows whose window has passed it.
  AttentionCase test_case = attention_cases()[1];
  test_case.sequences = {{150, 150}};
  const auto whole = whole_batch(DType::kFloat32, test_case);
  const auto device = cpu(2);
  AttentionInputs inputs(*device, DType::kFloat32, test_case);
  inputs.poison(0, 0);
  inputs.poison(0, 149);
  const Bytes out = inputs.run(inputs.whole()).bytes();
  const int first_clean = test_case.options.window;
  for (int row = 0; row < 150; ++row) {
    const bool clean = first_clean <= row && row < 149;
    EXPECT_EQ(part(out, 150, row, row + 1) == whole[0][static_cast<size_t>(row)], clean) << row;
  }
}

// ---- Allocations ------------------------------------------------------------------------------

TEST(CpuRowsTest, WarmOperationsAllocateNothing) {
  for (DType dtype : kModelDtypes) {
    const auto device = cpu(3);
    constexpr int64_t kT = 70, kD = 256, kH = 4, kK = 2, kLength = 2500;
    auto filled = [&](DType type, std::initializer_list<int64_t> shape, double value) {
      return DeviceTensor(*device, type, shape,
                          Values(static_cast<size_t>(Tensor(nullptr, type, shape).numel()), value));
    };
    const DType f32 = DType::kFloat32;
    const DeviceTensor x = filled(dtype, {kT, kD}, 1.0), table = filled(dtype, {kD, kD}, 0.5);
    const DeviceTensor wide = filled(dtype, {kT, 2 * kD}, 0.5), out = filled(dtype, {kT, kD}, 0.0);
    const DeviceTensor residual = filled(f32, {kT, kD}, 1.0), weight = filled(f32, {kD}, 1.0);
    const DeviceTensor ids = filled(DType::kInt32, {kT}, 3.0),
                       slots = filled(DType::kInt64, {kT}, 5.0);
    const DeviceTensor angles = filled(f32, {16, kD / kH / 2}, 0.5);
    const DeviceTensor keys = filled(dtype, {kLength, 1, kK, kD / kH}, 0.1);
    const DeviceTensor values = filled(dtype, {kLength, 1, kK, kD / kH}, 0.2);
    const DeviceTensor lengths = filled(DType::kInt32, {1}, kLength);
    const DeviceTensor tables = filled(DType::kInt32, {1, kLength}, 7.0);
    const DeviceTensor prefill(*device, DType::kInt32, {2}, {0, kT});
    const DeviceTensor decode(*device, DType::kInt32, {2}, {0, 1});
    const Tensor q = x.tensor().view({kT, kH, kD / kH}),
                 heads = out.tensor().view({kT, kH, kD / kH});
    const Tensor kv_rows = x.tensor().slice(1, 0, kD / 2).split_last(kK, kD / kH);

    LoraCase adapters(*device, dtype, kD, {{.columns = kD}}, {{16}, {40}}, 1);
    std::vector<int> slots_of_rows(kT, 0);
    for (int64_t row = 0; row < kT; row += 3) slots_of_rows[static_cast<size_t>(row)] = 1;
    const LoraRows lora_rows = adapters.rows(slots_of_rows);
    const std::vector<LoraTarget> targets = adapters.targets();

    std::vector<SampledRow> choices;
    for (int32_t row = 0; row < kT; ++row) {
      choices.push_back({.row = row,
                         .temperature = 0.9f,
                         .top_k = row % 3 * 5,
                         .top_p = row % 2 == 0 ? 0.9f : 1.0f,
                         .typical_p = row % 5 == 0 ? 0.9f : 1.0f,
                         .unit = 0.3});
    }
    std::vector<RowStatistics> statistics(static_cast<size_t>(kT));
    const DeviceTensor tokens(*device, DType::kInt32, {kT});
    const TopRow top = {.row = 1, .count = 5};
    std::vector<TopLogit> top_logits(5);

    auto step = [&] {
      device->embedding(ids, table, 1.0f, residual);
      device->rms_norm(residual, weight, 1e-6f, out);
      device->rms_norm_add(x, weight, 1e-6f, residual);
      device->linear(x, table, out);
      device->lora(x, targets, lora_rows, out);
      device->add_silu(x, out, x.tensor().select(0, 0), out);
      device->rotary(q, ids, angles, angles);
      device->store_kv(kv_rows, kv_rows, slots, {keys, values});
      for (const DeviceTensor* rows : {&prefill, &decode}) {
        const int64_t count = rows == &prefill ? kT : 1;
        device->attention(q.slice(0, 0, count), {keys, values},
                          {.cu_seqlens_q = *rows,
                           .kv_lengths = lengths,
                           .block_tables = tables,
                           .max_q = static_cast<int>(count),
                           .max_kv = kLength},
                          {}, heads.slice(0, 0, count));
      }
      device->gelu_tanh_mul(wide, out);
      device->softcap(residual, 30.0f);
      device->gather_rows(x, ids, out);
      device->row_statistics(residual, tokens, statistics.data());
      device->sample(residual, {choices.data(), kT}, tokens);
      device->top_logits(residual, {&top, 1}, top_logits.data());
    };
    step();
    const int64_t before = allocations;
    step();
    EXPECT_EQ(allocations - before, 0);
  }
}

}  // namespace
}  // namespace lorax::testing
