// Every operation of device/device.h but attention, on every device and in every model dtype,
// against the reference in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <span>
#include <stdexcept>
#include <tuple>

#include "base/error.h"
#include "device_tensor.h"
#include "reference_ops.h"

namespace lorax::testing {
namespace {

// float32 sums and functions err by a few units of the last place.
constexpr double kUnit = 0x1p-23;

size_t count(int64_t n) { return static_cast<size_t>(n); }

Values to_values(const std::vector<int>& numbers) { return {numbers.begin(), numbers.end()}; }

// Columns [begin, begin + width) of rows of `stride`.
Values columns(const Values& values, int64_t stride, int64_t begin, int64_t width) {
  Values out;
  for (size_t row = 0; row < values.size(); row += count(stride)) {
    for (int64_t i = begin; i < begin + width; ++i) out.push_back(values[row + count(i)]);
  }
  return out;
}

std::string name_of_param(
    const ::testing::TestParamInfo<std::tuple<std::string, DType>>& param_info) {
  return std::get<0>(param_info.param) + "_" + std::string(name_of(std::get<1>(param_info.param)));
}

class DeviceOpsTest : public ::testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  // Shapes around the sizes of vectors and of thread blocks.
  static constexpr int64_t kRows[] = {1, 3, 70};
  static constexpr int64_t kWidths[] = {1, 7, 8, 33, 64, 257, 2304};

  Values random(int64_t n, double scale = 1.0) { return random(dtype_, n, scale); }
  Values random(DType dtype, int64_t n, double scale = 1.0) {
    return random_values(random_, dtype, count(n), scale);
  }
  std::vector<int> random_integers(int64_t n, int end) {
    std::uniform_int_distribution<int> uniform(0, end - 1);
    std::vector<int> numbers(count(n));
    for (int& number : numbers) number = uniform(random_);
    return numbers;
  }
  DeviceTensor upload(DType dtype, std::initializer_list<int64_t> shape, const Values& values) {
    return DeviceTensor(device_, dtype, shape, values);
  }
  DeviceTensor upload(std::initializer_list<int64_t> shape, const Values& values) {
    return upload(dtype_, shape, values);
  }
  DeviceTensor poisoned(DType dtype, std::initializer_list<int64_t> shape) {
    return DeviceTensor(device_, dtype, shape);
  }

  // Of a sum of n products of size 1.
  Tolerance of_sum(DType out_dtype, int64_t n) const {
    return rounding_of_sum(device_, out_dtype, n);
  }
  bool on_cpu() const { return std::get<0>(GetParam()) == "cpu"; }

  Device& device_ = shared_device(std::get<0>(GetParam()));
  const DType dtype_ = std::get<1>(GetParam());
  std::mt19937 random_{1};
};

INSTANTIATE_TEST_SUITE_P(Devices, DeviceOpsTest,
                         ::testing::Combine(::testing::ValuesIn(available_devices()),
                                            ::testing::ValuesIn(kModelDtypes)),
                         name_of_param);

TEST_P(DeviceOpsTest, DescribesItself) { EXPECT_FALSE(device_.describe().empty()); }

TEST_P(DeviceOpsTest, GivesAndTakesMemory) {
  EXPECT_GT(device_.available_memory(), 0u);
  for (size_t bytes : {size_t{1}, size_t{1000}, size_t{5} << 20}) {
    Buffer buffer(device_, bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    std::vector<char> sent(bytes), back(bytes);
    std::iota(sent.begin(), sent.end(), char{1});
    device_.copy_from_host(buffer.data(), sent.data(), bytes);
    device_.copy_to_host(back.data(), buffer.data(), bytes);
    EXPECT_TRUE(sent == back) << bytes;
  }
}

// Blocks of other sizes than those that left room for them.
TEST_P(DeviceOpsTest, PoolsGiveAllTheyHave) {
  constexpr size_t kUnitBytes = size_t{6} << 20;
  const std::unique_ptr<DevicePool> pool = device_.make_pool(8 * kUnitBytes);
  EXPECT_EQ(pool->size_of(kUnitBytes), kUnitBytes);
  std::vector<PoolBlock> blocks;
  for (int i = 0; i < 8; ++i) blocks.emplace_back(*pool, kUnitBytes);
  EXPECT_THROW(PoolBlock(*pool, 1), Error);
  const auto holds = [&](const PoolBlock& block, char first) {
    std::vector<char> sent(block.bytes()), back(block.bytes());
    std::iota(sent.begin(), sent.end(), first);
    device_.upload(block.data(), sent.data(), sent.size());
    device_.download(back.data(), block.data(), back.size());
    return sent == back;
  };
  for (size_t i : {6, 4, 2, 0}) blocks.erase(blocks.begin() + static_cast<ptrdiff_t>(i));
  EXPECT_TRUE(holds(PoolBlock(*pool, kUnitBytes), 1));
  {
    const PoolBlock wide(*pool, 4 * kUnitBytes - 5);
    EXPECT_TRUE(holds(wide, 2));
    EXPECT_THROW(PoolBlock(*pool, kUnitBytes), Error);
    for (const PoolBlock& block : blocks) EXPECT_TRUE(holds(block, 3));
  }
  const PoolBlock half(*pool, 2 * kUnitBytes);
  const PoolBlock rest(*pool, 2 * kUnitBytes);
  EXPECT_TRUE(holds(half, 4) && holds(rest, 5));
}

TEST_P(DeviceOpsTest, Embedding) {
  constexpr int kVocabulary = 50;
  for (int64_t width : kWidths) {
    for (int64_t rows : kRows) {
      const Values table = random(kVocabulary * width);
      std::vector<int> ids = random_integers(rows, kVocabulary);
      ids.back() = kVocabulary - 1;
      const DeviceTensor out = poisoned(DType::kFloat32, {rows, width});
      device_.embedding(upload(DType::kInt32, {rows}, to_values(ids)),
                        upload({kVocabulary, width}, table), 3.7f, out);
      expect_close(out.download(),
                   reference::embedding(ids, table, width, static_cast<double>(3.7f)), {kUnit});
    }
  }
}

TEST_P(DeviceOpsTest, TokenEmbedding) {
  for (int64_t width : kWidths) {
    const std::vector<int> tokens = {0, 7, 8, 49}, ids = {7, 3, 49, 7, 0, 50, 9};
    const Values rows = random(4 * width), before = random(DType::kFloat32, 7 * width, 1.0);
    const DeviceTensor out = upload(DType::kFloat32, {7, width}, before);
    device_.token_embedding(upload(DType::kInt32, {7}, to_values(ids)),
                            upload(DType::kInt32, {4}, to_values(tokens)), upload({4, width}, rows),
                            3.7f, out);
    Values want = before;
    for (size_t i = 0; i < ids.size(); ++i) {
      const auto found = std::ranges::find(tokens, ids[i]);
      if (found == tokens.end()) continue;
      for (int64_t j = 0; j < width; ++j) {
        want[i * static_cast<size_t>(width) + static_cast<size_t>(j)] =
            rows[static_cast<size_t>((found - tokens.begin()) * width + j)] *
            static_cast<double>(3.7f);
      }
    }
    expect_close(out.download(), want, {kUnit});
  }
}

TEST_P(DeviceOpsTest, ScatterColumns) {
  for (int64_t rows : kRows) {
    const Values from = random(DType::kFloat32, rows * 3, 1.0);
    Values want = random(DType::kFloat32, rows * 40, 1.0);
    const DeviceTensor out = upload(DType::kFloat32, {rows, 40}, want);
    device_.scatter_columns(upload(DType::kFloat32, {rows, 3}, from),
                            upload(DType::kInt32, {3}, to_values({5, 39, 0})), out);
    for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
      want[row * 40 + 5] = from[row * 3];
      want[row * 40 + 39] = from[row * 3 + 1];
      want[row * 40] = from[row * 3 + 2];
    }
    EXPECT_EQ(out.download(), want);
  }
}

TEST_P(DeviceOpsTest, FillInIds) {
  constexpr int kCount = 600;  // more than a block of threads
  std::vector<int> ids, from, want;
  for (int i = 0; i < kCount; ++i) from.push_back(i % 5 == 0 ? -1 : 1000 + i);
  for (int i = 0; i < kCount; ++i) {
    const int chosen = (7 * i + 3) % kCount;
    ids.push_back(i % 3 == 0 ? i : -1 - chosen);
    want.push_back(i % 3 == 0 ? i : std::max(from[count(chosen)], 0));
  }
  const DeviceTensor tensor = upload(DType::kInt32, {kCount}, to_values(ids));
  device_.fill_in_ids(tensor, upload(DType::kInt32, {kCount}, to_values(from)));
  EXPECT_EQ(tensor.download(), to_values(want));
}

TEST_P(DeviceOpsTest, CopiesToTheHostBesideIt) {
  const Values sent = random(4096);
  const DeviceTensor tensor = upload({4096}, sent);
  const HostBuffer got(device_, 4096 * size_of(dtype_));
  const std::unique_ptr<DeviceEvent> copied = device_.make_event();
  device_.begin_copy_to_host(got.data(), static_cast<const Tensor&>(tensor).data, got.bytes());
  copied->record();
  copied->wait();
  std::vector<char> want(got.bytes());
  device_.copy_to_host(want.data(), static_cast<const Tensor&>(tensor).data, want.size());
  EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size()), 0);
}

TEST_P(DeviceOpsTest, RmsNormOfEveryPairOfDtypes) {
  for (DType x_dtype : {DType::kFloat32, dtype_}) {
    for (DType out_dtype : {DType::kFloat32, dtype_}) {
      for (int64_t width : kWidths) {
        for (int64_t rows : kRows) {
          const Values x = random(x_dtype, rows * width, 2.0);
          const Values weight = random(DType::kFloat32, width);
          const DeviceTensor out = poisoned(out_dtype, {rows, width});
          device_.rms_norm(upload(x_dtype, {rows, width}, x),
                           upload(DType::kFloat32, {width}, weight), 1e-6f, out);
          expect_close(out.download(), reference::rms_norm(x, weight, 1e-6),
                       rounding(out_dtype, 8 * kUnit));
        }
      }
    }
  }
}

TEST_P(DeviceOpsTest, RmsNormAddNormIsOneAfterTheOther) {
  for (int64_t width : kWidths) {
    for (int64_t rows : kRows) {
      const DeviceTensor x = upload({rows, width}, random(rows * width, 2.0));
      const DeviceTensor weight = upload(DType::kFloat32, {width}, random(DType::kFloat32, width));
      const DeviceTensor next = upload(DType::kFloat32, {width}, random(DType::kFloat32, width));
      const Values start = random(DType::kFloat32, rows * width);
      const DeviceTensor residual = upload(DType::kFloat32, {rows, width}, start);
      const DeviceTensor out = poisoned(dtype_, {rows, width});
      device_.rms_norm_add_norm(x, weight, 1e-6f, residual, next, 1e-5f, out);

      const DeviceTensor want_residual = upload(DType::kFloat32, {rows, width}, start);
      const DeviceTensor want = poisoned(dtype_, {rows, width});
      device_.rms_norm_add(x, weight, 1e-6f, want_residual);
      device_.rms_norm(want_residual, next, 1e-5f, want);
      EXPECT_EQ(residual.bytes(), want_residual.bytes()) << rows << " x " << width;
      EXPECT_EQ(out.bytes(), want.bytes()) << rows << " x " << width;
    }
  }
}

TEST_P(DeviceOpsTest, RotaryStoreKvIsOneAfterTheOther) {
  constexpr int64_t kSlots = 90;
  constexpr int64_t kHeads = 3, kKvHeads = 2;
  for (int64_t head_size : {2, 8, 24, 256}) {
    for (int64_t rows : kRows) {
      const int64_t width = (kHeads + 2 * kKvHeads) * head_size;
      const Values row_values = random(rows * width);
      std::vector<int> positions = random_integers(rows, 40);
      std::vector<int> slots(count(kSlots));
      std::iota(slots.begin(), slots.end(), 0);
      std::shuffle(slots.begin(), slots.end(), random_);
      slots.resize(count(rows));
      if (rows > 1) slots[1] = -1;
      const Values angles = random(DType::kFloat32, 40 * head_size / 2);
      const DeviceTensor cos = upload(DType::kFloat32, {40, head_size / 2}, angles);
      const DeviceTensor sin =
          upload(DType::kFloat32, {40, head_size / 2}, {angles.rbegin(), angles.rend()});
      const DeviceTensor d_positions = upload(DType::kInt32, {rows}, to_values(positions));
      const DeviceTensor d_slots = upload(DType::kInt64, {rows}, to_values(slots));
      struct Outcome {
        DeviceTensor qkv, key, value;
      };
      const auto run = [&](bool fused) {
        Outcome o{upload({rows, width}, row_values),
                  upload({kSlots, 1, kKvHeads, head_size},
                         Values(count(kSlots * kKvHeads * head_size), 5.0)),
                  upload({kSlots, 1, kKvHeads, head_size},
                         Values(count(kSlots * kKvHeads * head_size), 6.0))};
        const Tensor heads = o.qkv.tensor().split_last(kHeads + 2 * kKvHeads, head_size);
        const Tensor q = heads.slice(1, 0, kHeads);
        const Tensor k = heads.slice(1, kHeads, kHeads + kKvHeads);
        const Tensor v = heads.slice(1, kHeads + kKvHeads, kHeads + 2 * kKvHeads);
        const PagedKv kv{o.key, o.value};
        if (fused) {
          device_.rotary_store_kv(q, k, v, d_positions, cos, sin, d_slots, kv);
        } else {
          device_.rotary(q, d_positions, cos, sin);
          device_.rotary(k, d_positions, cos, sin);
          device_.store_kv(k, v, d_slots, kv);
        }
        return o;
      };
      const Outcome got = run(true);
      const Outcome want = run(false);
      EXPECT_EQ(columns(got.qkv.download(), width, 0, kHeads * head_size),
                columns(want.qkv.download(), width, 0, kHeads * head_size));
      EXPECT_EQ(got.key.bytes(), want.key.bytes()) << rows << " rows of " << head_size;
      EXPECT_EQ(got.value.bytes(), want.value.bytes()) << rows << " rows of " << head_size;
    }
  }
}

TEST_P(DeviceOpsTest, LinearGeluTanhMulIsOneAfterTheOther) {
  for (int64_t n : {8, 33, 72, 2304}) {
    for (int64_t features : {1, 16, 40, 200}) {
      for (int64_t rows : {1, 3, 9, 17, 32, 70}) {
        const DeviceTensor x = upload({rows, n}, random(rows * n));
        const DeviceTensor weight = upload({2 * features, n}, random(2 * features * n, 0.1));
        const DeviceTensor room = poisoned(dtype_, {rows, 2 * features});
        const DeviceTensor out = poisoned(dtype_, {rows, features});
        device_.linear_gelu_tanh_mul(x, weight, room, out);
        const DeviceTensor gate_up = poisoned(dtype_, {rows, 2 * features});
        const DeviceTensor want = poisoned(dtype_, {rows, features});
        device_.linear(x, weight, gate_up);
        device_.gelu_tanh_mul(gate_up, want);
        EXPECT_EQ(out.bytes(), want.bytes()) << rows << " x " << n << " x " << features;
      }
    }
  }
}

// Of so many rows that a kernel may do both, whose sums have an order of their own.
TEST_P(DeviceOpsTest, LinearGeluTanhMulOfManyRows) {
  if (on_cpu()) return;
  for (const auto& [rows, features, n] :
       {std::tuple{512, 256, 200}, {700, 1152, 2304}, {2100, 4608, 72}}) {
    const DeviceTensor x = upload({rows, n}, random(int64_t{rows} * n));
    const DeviceTensor weight =
        upload({2 * features, n}, random(int64_t{2} * features * n, 2.0 / std::sqrt(n)));
    const DeviceTensor room = poisoned(dtype_, {rows, 2 * features});
    const DeviceTensor out = poisoned(dtype_, {rows, features});
    device_.linear_gelu_tanh_mul(x, weight, room, out);
    const DeviceTensor gate_up = poisoned(dtype_, {rows, 2 * features});
    const DeviceTensor want = poisoned(dtype_, {rows, features});
    device_.linear(x, weight, gate_up);
    device_.gelu_tanh_mul(gate_up, want);
    const Values got = out.download();
    const Values wanted = want.download();
    for (size_t i = 0; i < got.size(); ++i) {  // a factor may be rounded the other way
      ASSERT_NEAR(got[i], wanted[i], 0x1p-6 * std::abs(wanted[i]) + 0x1p-7) << i;
    }
  }
}

// Kernels that overlap, each of which reads what the one before wrote, in memory used again and
// again: as the layers of a model.
TEST_P(DeviceOpsTest, ChainsOfOperationsSeeEachOther) {
  constexpr int64_t kWidth = 512;
  for (int64_t rows : {1, 20}) {
    const DeviceTensor weight = upload({kWidth, kWidth}, random(kWidth * kWidth, 0.06));
    const DeviceTensor norm = upload(DType::kFloat32, {kWidth}, random(DType::kFloat32, kWidth));
    const Values start = random(DType::kFloat32, rows * kWidth);
    const auto run = [&](bool wait) {
      const DeviceTensor residual = upload(DType::kFloat32, {rows, kWidth}, start);
      const DeviceTensor x = poisoned(dtype_, {rows, kWidth});
      const DeviceTensor y = poisoned(dtype_, {rows, kWidth});
      device_.rms_norm(residual, norm, 1e-6f, x);
      for (int layer = 0; layer < 40; ++layer) {
        device_.linear(x, weight, y);
        if (wait) device_.synchronize();
        device_.linear(y, weight, x);
        if (wait) device_.synchronize();
        device_.rms_norm_add_norm(x, norm, 1e-6f, residual, norm, 1e-6f, y);
        if (wait) device_.synchronize();
        device_.linear(y, weight, x);
        if (wait) device_.synchronize();
      }
      return residual.bytes();
    };
    const std::vector<char> want = run(true);
    for (int again = 0; again < 5; ++again) EXPECT_EQ(run(false), want);
  }
}

TEST_P(DeviceOpsTest, UploadsAndDownloadsOfAnySize) {
  for (size_t bytes : {size_t{1}, size_t{2} << 20, (size_t{7} << 20) + 5}) {
    Buffer buffer(device_, bytes);
    HostBuffer pinned(device_, bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(pinned.data()) % 64, 0u);
    std::vector<char> sent(bytes), back(bytes);
    std::iota(sent.begin(), sent.end(), char{1});
    device_.upload(buffer.data(), sent.data(), bytes);
    device_.download(back.data(), buffer.data(), bytes);
    EXPECT_TRUE(sent == back) << bytes;
    std::ranges::reverse(sent);
    std::ranges::copy(sent, static_cast<char*>(pinned.data()));
    device_.upload(buffer.data(), pinned.data(), bytes);
    std::fill_n(static_cast<char*>(pinned.data()), bytes, char{0});
    device_.download(pinned.data(), buffer.data(), bytes);
    EXPECT_TRUE(std::ranges::equal(sent, std::span(static_cast<char*>(pinned.data()), bytes)));
  }
}

TEST_P(DeviceOpsTest, EventsAreMomentsInOrder) {
  const std::unique_ptr<DeviceEvent> before = device_.make_event();
  const std::unique_ptr<DeviceEvent> after = device_.make_event();
  before->wait();  // no moment yet
  const DeviceTensor x = upload({64, 64}, random(64 * 64));
  const DeviceTensor out = poisoned(dtype_, {64, 64});
  before->record();
  for (int i = 0; i < 20; ++i) device_.linear(x, x, out);
  after->record();
  EXPECT_GT(after->seconds_since(*before), 0.0);
}

TEST_P(DeviceOpsTest, GraphsDoTheirWorkAgain) {
  const DeviceTensor in = upload({4, 64}, random(4 * 64));
  const DeviceTensor weight = upload(DType::kFloat32, {64}, random(DType::kFloat32, 64));
  const DeviceTensor out = poisoned(dtype_, {4, 64});
  bool called = false;
  const std::unique_ptr<DeviceGraph> graph = device_.capture([&] {
    called = true;
    device_.rms_norm(in, weight, 1e-6f, out);
    device_.copy(in.tensor().data, out.tensor().data, in.tensor().bytes());
  });
  EXPECT_EQ(graph != nullptr, device_.can_capture());
  EXPECT_EQ(called, device_.can_capture());
  if (graph == nullptr) return;
  const Values before = in.download();
  EXPECT_TRUE(std::isnan(out.download()[0]));  // kept, not done
  device_.replay(*graph);
  expect_close(out.download(), reference::rms_norm(before, weight.download(), 1e-6),
               rounding(dtype_, 8 * kUnit));
  const Values once = in.download();
  device_.replay(*graph);
  expect_close(out.download(), reference::rms_norm(once, weight.download(), 1e-6),
               rounding(dtype_, 8 * kUnit));
  // What fails inside leaves the device as it was.
  EXPECT_THROW(device_.capture([] { throw std::runtime_error("no"); }), std::runtime_error);
  device_.replay(*graph);
  device_.synchronize();
}

TEST_P(DeviceOpsTest, RoundsToNearestEvenAndKeepsNan) {
  // Of ones, the norm is the weight.
  const double infinity = std::numeric_limits<double>::infinity();
  Values weight = {1.0 + 0x1p-8,  1.0 + 3 * 0x1p-8,
                   -1.0 - 0x1p-8, 1.0 + 0x1p-8 + 0x1p-20,
                   0x1p-133,      -0x1.9p-130,
                   3.4e38,        infinity,
                   -infinity,     0.0,
                   NAN,           -NAN};
  // The same of float16: ties, subnormals, and the end of its range.
  for (double value : {1.0 + 0x1p-11, 1.0 + 3 * 0x1p-11, 1.0 + 0x1p-11 + 0x1p-20, 0x1p-24, 0x1p-25,
                       0x1.1p-25, -0x1.8p-24, 0x1.ffep-15, 65504.0, 65519.0, 65520.0, -65520.0}) {
    weight.push_back(value);
  }
  for (int i = 0; i < 46; ++i) weight.push_back(1.0 + i * 0x1p-12);
  const int64_t width = static_cast<int64_t>(weight.size());
  const DeviceTensor out = poisoned(dtype_, {1, width});
  device_.rms_norm(upload({1, width}, Values(weight.size(), 1.0)),
                   upload(DType::kFloat32, {width}, weight), 0.0f, out);
  const Values got = out.download();
  for (size_t i = 0; i < weight.size(); ++i) {
    if (std::isnan(weight[i])) {
      EXPECT_TRUE(std::isnan(got[i])) << i;
    } else {
      EXPECT_EQ(got[i], rounded(weight[i], dtype_)) << i;
    }
  }
}

TEST_P(DeviceOpsTest, RmsNormCountsEps) {
  const Values x = random(4 * 64, 1e-3);
  const Values weight = random(DType::kFloat32, 64);
  const DeviceTensor out = poisoned(DType::kFloat32, {4, 64});
  device_.rms_norm(upload({4, 64}, x), upload(DType::kFloat32, {64}, weight), 1e-5f, out);
  expect_close(out.download(), reference::rms_norm(x, weight, static_cast<double>(1e-5f)),
               {8 * kUnit});
}

TEST_P(DeviceOpsTest, RmsNormInPlace) {
  const Values x = random(5 * 100);
  const Values weight = random(DType::kFloat32, 100);
  const DeviceTensor out = upload({5, 100}, x);
  device_.rms_norm(out, upload(DType::kFloat32, {100}, weight), 1e-6f, out);
  expect_close(out.download(), reference::rms_norm(x, weight, 1e-6), rounding(dtype_, 8 * kUnit));
}

TEST_P(DeviceOpsTest, RmsNormOfStridedRows) {
  const Values wide = random(6 * 300);
  const Values weight = random(DType::kFloat32, 100);
  const DeviceTensor x = upload({6, 300}, wide);
  const DeviceTensor out = poisoned(dtype_, {6, 100});
  device_.rms_norm(x.tensor().slice(1, 150, 250), upload(DType::kFloat32, {100}, weight), 1e-6f,
                   out);
  expect_close(out.download(), reference::rms_norm(columns(wide, 300, 150, 100), weight, 1e-6),
               rounding(dtype_, 8 * kUnit));
}

TEST_P(DeviceOpsTest, RmsNormAdd) {
  for (DType x_dtype : {DType::kFloat32, dtype_}) {
    for (int64_t width : kWidths) {
      for (int64_t rows : kRows) {
        const Values x = random(x_dtype, rows * width);
        const Values weight = random(DType::kFloat32, width);
        const Values before = random(DType::kFloat32, rows * width);
        const DeviceTensor residual = upload(DType::kFloat32, {rows, width}, before);
        device_.rms_norm_add(upload(x_dtype, {rows, width}, x),
                             upload(DType::kFloat32, {width}, weight), 1e-6f, residual);
        Values want = reference::rms_norm(x, weight, 1e-6);
        for (size_t i = 0; i < want.size(); ++i) want[i] += before[i];
        expect_close(residual.download(), want, {kUnit, 64 * kUnit});
      }
    }
  }
}

TEST_P(DeviceOpsTest, Linear) {
  struct Shape {
    int64_t rows, outputs, inputs;
  };
  for (const Shape& s : {Shape{1, 1, 8}, Shape{1, 96, 256}, Shape{2, 7, 24}, Shape{5, 64, 72},
                         Shape{17, 33, 128}, Shape{64, 130, 264}, Shape{129, 48, 100}}) {
    for (DType out_dtype : {DType::kFloat32, dtype_}) {
      const Values x = random(s.rows * s.inputs);
      const Values weight = random(s.outputs * s.inputs);
      const DeviceTensor out = poisoned(out_dtype, {s.rows, s.outputs});
      device_.linear(upload({s.rows, s.inputs}, x), upload({s.outputs, s.inputs}, weight), out);
      expect_close(out.download(), reference::linear(x, weight, s.inputs),
                   of_sum(out_dtype, s.inputs));
    }
  }
}

// Around the limits of kernels for few rows, and widths that are not a multiple of their steps.
TEST_P(DeviceOpsTest, LinearOfFewRows) {
  for (int64_t inputs : {8, 40, 520, 1032, 7, 257}) {
    constexpr int64_t kOutputs = 83;
    const Values weight = random(kOutputs * inputs);
    const DeviceTensor device_weight = upload({kOutputs, inputs}, weight);
    for (int64_t rows : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40}) {
      for (DType out_dtype : {DType::kFloat32, dtype_}) {
        const Values x = random(rows * inputs);
        const DeviceTensor out = poisoned(out_dtype, {rows, kOutputs});
        device_.linear(upload({rows, inputs}, x), device_weight, out);
        SCOPED_TRACE(std::to_string(rows) + " rows of " + std::to_string(inputs));
        expect_close(out.download(), reference::linear(x, weight, inputs),
                     of_sum(out_dtype, inputs));
      }
    }
  }
}

// Of float16 infinity, as in PyTorch; sums themselves are float32.
TEST_P(DeviceOpsTest, LinearBeyondTheRangeOfItsDtype) {
  constexpr int64_t kOutputs = 24;
  for (int64_t inputs : {15, 16}) {
    for (int64_t rows : {1, 12, 40}) {
      const DeviceTensor x = upload({rows, inputs}, Values(count(rows * inputs), 200.0));
      const DeviceTensor weight =
          upload({kOutputs, inputs}, Values(count(kOutputs * inputs), -200.0));
      const double sum = -40000.0 * static_cast<double>(inputs);
      for (DType out_dtype : {DType::kFloat32, dtype_}) {
        const DeviceTensor out = poisoned(out_dtype, {rows, kOutputs});
        device_.linear(x, weight, out);
        EXPECT_EQ(out.download(), Values(count(rows * kOutputs), rounded(sum, out_dtype)))
            << rows << " rows of " << inputs;
      }
    }
  }
}

TEST_P(DeviceOpsTest, LinearOfStridedRows) {
  constexpr int64_t kOutputs = 48;
  for (int64_t offset : {8, 3}) {
    for (int64_t rows : {1, 5, 64}) {
      const Values wide = random(rows * 304);
      const Values weight = random(kOutputs * 120);
      const DeviceTensor x = upload({rows, 304}, wide);
      const DeviceTensor out = poisoned(dtype_, {rows, kOutputs});
      device_.linear(x.tensor().slice(1, offset, offset + 120), upload({kOutputs, 120}, weight),
                     out);
      expect_close(out.download(), reference::linear(columns(wide, 304, offset, 120), weight, 120),
                   of_sum(dtype_, 120));
    }
  }
}

// More outputs than blocks can have alone and whole, and no whole tiles of them. Where the kernels
// for it are, up to 64 rows do not depend on each other.
TEST_P(DeviceOpsTest, LinearOfManyOutputs) {
  if (on_cpu()) return;  // minutes in a debug build
  const bool alone = device_.describe().find("capability 9.0") != std::string::npos;
  for (int64_t outputs : {4360, 8584, 17000, 34000}) {
    constexpr int64_t kInputs = 584;
    const Values weight = random(outputs * kInputs);
    const DeviceTensor device_weight = upload({outputs, kInputs}, weight);
    const Values all_x = random(64 * kInputs);
    Values last;
    for (int64_t rows : {64, 17}) {
      const Values x(all_x.begin(), all_x.begin() + rows * kInputs);
      const DeviceTensor out = poisoned(dtype_, {rows, outputs});
      device_.linear(upload({rows, kInputs}, x), device_weight, out);
      const Values got = out.download();
      expect_close(got, reference::linear(x, weight, kInputs), of_sum(dtype_, kInputs));
      if (alone && dtype_ == DType::kBFloat16 && rows == 17 && outputs < 30000) {
        EXPECT_TRUE(std::equal(got.begin(), got.end(), last.begin())) << outputs;
      }
      last = got;
    }
  }
}

// Products of Gemma 2 2b and 9b; some columns of the result are compared.
TEST_P(DeviceOpsTest, LinearOfGemma2) {
  struct Shape {
    int64_t outputs, inputs;
  };
  for (const Shape& s : {Shape{4096, 2304}, Shape{2304, 9216}, Shape{3584, 4096}}) {
    if (on_cpu()) break;  // minutes in a debug build
    const Values weight = random(s.outputs * s.inputs);
    const DeviceTensor device_weight = upload({s.outputs, s.inputs}, weight);
    std::vector<int64_t> sample = {0, s.outputs - 1};
    for (int i = 0; i < 30; ++i) sample.push_back(random_integers(1, int(s.outputs)).front());
    Values sampled_weight;
    for (int64_t row : sample) {
      sampled_weight.insert(sampled_weight.end(), weight.begin() + row * s.inputs,
                            weight.begin() + (row + 1) * s.inputs);
    }
    for (int64_t rows : {1, 4, 8, 16, 32, 33, 64, 300}) {
      const Values x = random(rows * s.inputs);
      for (DType out_dtype : {DType::kFloat32, dtype_}) {
        const DeviceTensor out = poisoned(out_dtype, {rows, s.outputs});
        device_.linear(upload({rows, s.inputs}, x), device_weight, out);
        const Values all = out.download();
        Values got;
        for (int64_t row = 0; row < rows; ++row) {
          for (int64_t column : sample) got.push_back(all[count(row * s.outputs + column)]);
        }
        SCOPED_TRACE(std::to_string(rows) + " rows of " + std::to_string(s.inputs));
        EXPECT_FALSE(std::ranges::any_of(all, [](double value) { return std::isnan(value); }));
        expect_close(got, reference::linear(x, sampled_weight, s.inputs),
                     of_sum(out_dtype, s.inputs));
      }
    }
  }
}

TEST_P(DeviceOpsTest, CopiesWithinTheDevice) {
  for (int64_t n : {1, 1000, 3000000}) {
    const Values values = random(n);
    const DeviceTensor from = upload({n}, values);
    const DeviceTensor to = poisoned(dtype_, {n});
    device_.copy(to.tensor().data, from.tensor().data, from.tensor().bytes());
    EXPECT_EQ(to.download(), values);
  }
}

TEST_P(DeviceOpsTest, RotaryOfASliceOfAFusedRow) {
  constexpr int kPositions = 100;
  for (int64_t head_size : {8, 16, 40, 64, 256}) {
    for (int64_t heads : {1, 3}) {
      for (int64_t rows : kRows) {
        const int64_t width = heads * head_size;
        const int64_t stride = width + 24;
        const Values before = random(rows * stride);
        const Values cos = random(DType::kFloat32, kPositions * head_size / 2);
        const Values sin = random(DType::kFloat32, kPositions * head_size / 2);
        const std::vector<int> positions = random_integers(rows, kPositions);
        const DeviceTensor fused = upload({rows, stride}, before);
        device_.rotary(fused.tensor().slice(1, 16, 16 + width).split_last(heads, head_size),
                       upload(DType::kInt32, {rows}, to_values(positions)),
                       upload(DType::kFloat32, {kPositions, head_size / 2}, cos),
                       upload(DType::kFloat32, {kPositions, head_size / 2}, sin));
        const Values after = fused.download();
        expect_close(columns(after, stride, 16, width),
                     reference::rotary(columns(before, stride, 16, width), positions, cos, sin,
                                       heads, head_size),
                     rounding(dtype_, kUnit, 32 * kUnit));
        EXPECT_EQ(columns(after, stride, 0, 16), columns(before, stride, 0, 16));
        EXPECT_EQ(columns(after, stride, 16 + width, 8), columns(before, stride, 16 + width, 8));
      }
    }
  }
}

TEST_P(DeviceOpsTest, StoreKv) {
  constexpr int64_t kBlocks = 7, kBlockSize = 3, kHeads = 2, kHeadSize = 24;
  constexpr int64_t kWidth = kHeads * kHeadSize;
  const Values fused = random(5 * 3 * kWidth);
  const DeviceTensor qkv = upload({5, 3 * kWidth}, fused);
  const Values slots = {4, -1, 20, 0, 11};
  const Values old_keys = random(kBlocks * kBlockSize * kWidth);
  const Values old_values = random(kBlocks * kBlockSize * kWidth);
  const DeviceTensor keys = upload({kBlocks, kBlockSize, kHeads, kHeadSize}, old_keys);
  const DeviceTensor values = upload({kBlocks, kBlockSize, kHeads, kHeadSize}, old_values);
  auto part = [&](int64_t i) {
    return qkv.tensor().slice(1, i * kWidth, (i + 1) * kWidth).split_last(kHeads, kHeadSize);
  };
  device_.store_kv(part(1), part(2), upload(DType::kInt64, {5}, slots), {keys, values});

  auto stored = [&](Values pages, int64_t i) {
    const Values rows = columns(fused, 3 * kWidth, i * kWidth, kWidth);
    for (size_t row = 0; row < slots.size(); ++row) {
      if (slots[row] < 0) continue;
      std::copy_n(rows.begin() + static_cast<int64_t>(row) * kWidth, kWidth,
                  pages.begin() + static_cast<int64_t>(slots[row]) * kWidth);
    }
    return pages;
  };
  EXPECT_EQ(keys.download(), stored(old_keys, 1));
  EXPECT_EQ(values.download(), stored(old_values, 2));
}

TEST_P(DeviceOpsTest, GeluTanhMul) {
  for (int64_t width : {1, 8, 33, 257, 9216}) {
    for (int64_t rows : kRows) {
      // Up to where the gate is cut off (below -5) or passes (above 5).
      const Values gate_up = random(rows * 2 * width, 3.0);
      const DeviceTensor out = poisoned(dtype_, {rows, width});
      device_.gelu_tanh_mul(upload({rows, 2 * width}, gate_up), out);
      expect_close(out.download(), reference::gelu_tanh_mul(gate_up, width),
                   rounding(dtype_, 16 * kUnit, 32 * kUnit));  // 1 + tanh cancels below 0
    }
  }
}

TEST_P(DeviceOpsTest, Softcap) {
  for (double scale : {1e-4, 1.0, 30.0, 1e4}) {
    for (int64_t n : {1, 9, 100000}) {
      const Values before = random(DType::kFloat32, n, scale);
      const DeviceTensor x = upload(DType::kFloat32, {1, n}, before);
      device_.softcap(x, 30.0f);
      expect_close(x.download(), reference::softcap(before, 30.0), {8 * kUnit});
    }
  }
}

TEST_P(DeviceOpsTest, GatherRows) {
  for (int64_t width : kWidths) {
    const Values x = random(9 * width);
    const DeviceTensor out = poisoned(dtype_, {5, width});
    device_.gather_rows(upload({9, width}, x),
                        upload(DType::kInt32, {5}, to_values({8, 0, 3, 3, 1})), out);
    Values want;
    for (int64_t row : {8, 0, 3, 3, 1}) {
      want.insert(want.end(), x.begin() + row * width, x.begin() + (row + 1) * width);
    }
    EXPECT_EQ(out.download(), want);
  }
}

}  // namespace
}  // namespace lorax::testing
