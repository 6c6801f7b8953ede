// Graphs of decode steps, which a GPU runs as programs of its own
// (device/cuda/megakernel/program.h): the same results as one operation after the other, whatever
// the graph holds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <numeric>
#include <tuple>

#include "device_tensor.h"
#include "lora_case.h"
#include "reference_ops.h"

namespace lorax::testing {
namespace {

size_t count(int64_t n) { return static_cast<size_t>(n); }

std::string name_of_param(
    const ::testing::TestParamInfo<std::tuple<std::string, DType>>& param_info) {
  return std::get<0>(param_info.param) + "_" + std::string(name_of(std::get<1>(param_info.param)));
}

double relative_distance(const Values& got, const Values& want) {
  double difference = 0.0;
  double size = 0.0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(difference / size);
}

class GraphTest : public ::testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  void SetUp() override {
    if (!device_.can_capture()) GTEST_SKIP() << "keeps no graphs";
  }

  DeviceTensor random(std::initializer_list<int64_t> shape, double scale = 1.0) {
    return DeviceTensor::of_random(device_, dtype_, shape, random_, scale);
  }
  DeviceTensor poisoned(DType dtype, std::initializer_list<int64_t> shape) {
    return DeviceTensor(device_, dtype, shape);
  }

  Device& device_ = shared_device(std::get<0>(GetParam()));
  const DType dtype_ = std::get<1>(GetParam());
  std::mt19937 random_{1};
};

INSTANTIATE_TEST_SUITE_P(Devices, GraphTest,
                         ::testing::Combine(::testing::ValuesIn(available_devices()),
                                            ::testing::Values(DType::kFloat32, DType::kBFloat16)),
                         name_of_param);

TEST_P(GraphTest, ProductsOfAllShapes) {
  struct Shape {
    int64_t m, n;
  };
  for (const Shape& shape : {Shape{2, 64}, Shape{34, 72}, Shape{130, 576}, Shape{1024, 1088},
                             Shape{2304, 2048}, Shape{83 * 2, 9216}, Shape{5000, 33 * 64}}) {
    const DeviceTensor weight = random({shape.m, shape.n}, 1.0 / std::sqrt(shape.n));
    const Values weights = weight.download();
    for (int64_t rows : {1, 2, 3, 8, 9, 16, 17}) {
      SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(shape.n) + " x " +
                   std::to_string(shape.m));
      const DeviceTensor x = random({rows, shape.n});
      const DeviceTensor floats = poisoned(DType::kFloat32, {rows, shape.m});
      const DeviceTensor rounded = poisoned(dtype_, {rows, shape.m});
      const DeviceTensor room = poisoned(dtype_, {rows, shape.m});
      const DeviceTensor gated = poisoned(dtype_, {rows, shape.m / 2});
      const auto graph = device_.capture([&] {
        device_.linear(x, weight, floats);
        device_.linear_gelu_tanh_mul(x, weight, room, gated);
        device_.linear(x, weight, rounded);
      });
      device_.replay(*graph);
      const Values want = reference::linear(x.download(), weights, shape.n);
      const double size = 1.0 / std::sqrt(shape.n);  // of the products in the sums
      const Tolerance of_sum = rounding_of_sum(device_, DType::kFloat32, shape.n, size);
      expect_close(floats.download(), want, of_sum);
      expect_close(rounded.download(), want, rounding_of_sum(device_, dtype_, shape.n, size));
      // Of what a product rounds to, rounding may go either way.
      Values gate_up = want;
      for (double& value : gate_up) value = testing::rounded(value, dtype_);
      const double unit = dtype_ == DType::kFloat32 ? of_sum.absolute : 0x1p-7;
      expect_close(gated.download(), reference::gelu_tanh_mul(gate_up, shape.m / 2),
                   {2 * unit, 4 * unit});
      const std::vector<char> once = rounded.bytes();
      const std::vector<char> gated_once = gated.bytes();
      for (int again = 0; again < 3; ++again) {
        device_.replay(*graph);
        EXPECT_EQ(rounded.bytes(), once);
        EXPECT_EQ(gated.bytes(), gated_once);
      }
    }
  }
}

// With as many rows as adapters may change, in any order, and rows that none changes.
TEST_P(GraphTest, LowRankPartsAreOneOperationAfterTheOther) {
  constexpr int64_t kColumns = 1024;
  for (int64_t n : {192, 2304, 9216}) {
    LoraCase adapters(device_, dtype_, n, {{.columns = kColumns}, {.columns = kColumns}},
                      {{16, 5}, {64, 0}, {500, 33}}, 3);
    const DeviceTensor weight = random({2 * kColumns, n}, 1.0 / std::sqrt(n));
    for (const std::vector<int>& pattern :
         std::vector<std::vector<int>>{{0}, {0, -1, 1}, {1, 0, 2, -1, 0, 2, 1, 1}}) {
      const int64_t rows = std::ssize(pattern);
      SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(n));
      const LoraRows lora_rows = adapters.rows(pattern);
      const std::vector<LoraTarget> targets = adapters.targets();
      const DeviceTensor x = random({rows, n});
      const DeviceTensor want = poisoned(dtype_, {rows, 2 * kColumns});
      const DeviceTensor want_gated = poisoned(dtype_, {rows, kColumns});
      device_.linear_lora(x, weight, targets, lora_rows, want);
      device_.gelu_tanh_mul(want, want_gated);
      const DeviceTensor out = poisoned(dtype_, {rows, 2 * kColumns});
      const DeviceTensor room = poisoned(dtype_, {rows, 2 * kColumns});
      const DeviceTensor gated = poisoned(dtype_, {rows, kColumns});
      const auto graph = device_.capture([&] {
        device_.linear_lora(x, weight, targets, lora_rows, out);
        device_.linear_lora(x, weight, targets, lora_rows, room);
        device_.gelu_tanh_mul(room, gated);
      });
      device_.replay(*graph);
      const double bound = dtype_ == DType::kFloat32 ? 1e-5 : 1e-2;
      EXPECT_LT(relative_distance(out.download(), want.download()), bound);
      EXPECT_LT(relative_distance(gated.download(), want_gated.download()), bound);
      const std::vector<char> once = out.bytes();
      const std::vector<char> gated_once = gated.bytes();
      device_.replay(*graph);
      EXPECT_EQ(out.bytes(), once);
      EXPECT_EQ(gated.bytes(), gated_once);
    }
  }
}

struct LayersShape {
  int64_t rows, hidden, intermediate, heads, kv_heads, head_size;
  int window;
  int longest;  // sequence

  int64_t qkv() const { return (heads + 2 * kv_heads) * head_size; }
};

// What layers of a decoder read: the same weights in each.
struct LayerWeights {
  LayerWeights(Device& device, DType dtype, const LayersShape& shape, std::mt19937& random)
      : qkv(matrix(device, dtype, shape.qkv(), shape.hidden, random)),
        o(matrix(device, dtype, shape.hidden, shape.heads * shape.head_size, random)),
        gate_up(matrix(device, dtype, 2 * shape.intermediate, shape.hidden, random)),
        down(matrix(device, dtype, shape.hidden, shape.intermediate, random)),
        norm(DeviceTensor::of_random(device, DType::kFloat32, {shape.hidden}, random)),
        cos(angles(device, shape, random)),
        sin(angles(device, shape, random)) {}

  DeviceTensor qkv, o, gate_up, down, norm, cos, sin;

 private:
  static DeviceTensor matrix(Device& device, DType dtype, int64_t m, int64_t n,
                             std::mt19937& random) {
    return DeviceTensor::of_random(device, dtype, {m, n}, random, 1.0 / std::sqrt(n));
  }
  static DeviceTensor angles(Device& device, const LayersShape& shape, std::mt19937& random) {
    return DeviceTensor::of_random(device, DType::kFloat32, {shape.longest, shape.head_size / 2},
                                   random, 0.7);
  }
};

// Layers of a decoder, with everything that they write.
class Layers {
 public:
  Layers(Device& device, DType dtype, const LayersShape& shape, const LayerWeights& weights,
         std::mt19937 random)
      : device_(device),
        shape_(shape),
        weights_(weights),
        blocks_((shape.longest + kBlockSize - 1) / kBlockSize),
        residual_(random_of(DType::kFloat32, {shape.rows, shape.hidden}, random)),
        key_(random_of(dtype, {shape.rows * blocks_, kBlockSize, shape.kv_heads, shape.head_size},
                       random)),
        value_(random_of(dtype, {shape.rows * blocks_, kBlockSize, shape.kv_heads, shape.head_size},
                         random)),
        hidden_(device, dtype, {shape.rows, shape.hidden}),
        product_(device, dtype, {shape.rows, shape.hidden}),
        qkv_(device, dtype, {shape.rows, shape.qkv()}),
        attention_(device, dtype, {shape.rows, shape.heads, shape.head_size}),
        gate_up_(device, dtype, {shape.rows, 2 * shape.intermediate}),
        gated_(device, dtype, {shape.rows, shape.intermediate}),
        start_(residual_.bytes()) {
    std::vector<int> lengths, starts(count(shape.rows + 1)), tables, positions;
    std::iota(starts.begin(), starts.end(), 0);
    for (int row = 0; row < shape.rows; ++row) {
      const int length = std::max(1, shape.longest - row * 37 % shape.longest);
      lengths.push_back(row == kFillingRow ? 0 : length);
      for (int block = 0; block < blocks_; ++block) {
        tables.push_back(row * blocks_ + blocks_ - 1 - block);
      }
      positions.push_back(length - 1);
      const int at = tables[count(row * blocks_ + (length - 1) / kBlockSize)] * kBlockSize;
      slots_.push_back(row == kFillingRow ? -1 : at + (length - 1) % kBlockSize);
    }
    positions_ = &keep(DType::kInt32, {shape.rows}, positions);
    slots_tensor_ = &keep(DType::kInt64, {shape.rows}, slots_);
    batch_ = {.cu_seqlens_q = keep(DType::kInt32, {shape.rows + 1}, starts),
              .kv_lengths = keep(DType::kInt32, {shape.rows}, lengths),
              .block_tables = keep(DType::kInt32, {shape.rows, blocks_}, tables),
              .max_q = 1,
              .max_kv = shape.longest + 100};
  }

  void run(int layers) const {
    device_.rms_norm(residual_, weights_.norm, 1e-6f, hidden_);
    for (int layer = 0; layer < layers; ++layer) {
      device_.linear(hidden_, weights_.qkv, qkv_);
      const Tensor heads =
          qkv_.tensor().split_last(shape_.heads + 2 * shape_.kv_heads, shape_.head_size);
      const Tensor query = heads.slice(1, 0, shape_.heads);
      const Tensor key = heads.slice(1, shape_.heads, shape_.heads + shape_.kv_heads);
      const Tensor value = heads.slice(1, shape_.heads + shape_.kv_heads, heads.dim(1));
      const PagedKv kv{key_, value_};
      device_.rotary_store_kv(query, key, value, *positions_, weights_.cos, weights_.sin,
                              *slots_tensor_, kv);
      device_.attention(query, kv, batch_,
                        {.scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_size)),
                         .softcap = 50.0f,
                         .window = shape_.window},
                        attention_);
      const Tensor rows = attention_.tensor().view({shape_.rows, shape_.heads * shape_.head_size});
      device_.linear(rows, weights_.o, product_);
      add_norm();
      device_.linear_gelu_tanh_mul(hidden_, weights_.gate_up, gate_up_, gated_);
      device_.linear(gated_, weights_.down, product_);
      add_norm();
    }
  }

  // The residual as it was at first.
  void reset() {
    device_.copy_from_host(residual_.tensor().data, start_.data(), start_.size());
    device_.synchronize();
  }

  // What a run leaves of each row, but for the one that fills up.
  struct Part {
    std::string name;
    Values values;

    bool operator==(const Part&) const = default;
  };
  std::vector<Part> parts() const {
    std::vector<Part> parts;
    const auto add = [&](const std::string& name, const Values& values) {
      const auto width = static_cast<int64_t>(values.size()) / shape_.rows;
      for (int64_t row = 0; row < shape_.rows; ++row) {
        if (row == kFillingRow) continue;
        const auto begin = values.begin() + row * width;
        parts.push_back({name + " of row " + std::to_string(row), {begin, begin + width}});
      }
    };
    add("residual", residual_.download());
    add("hidden", hidden_.download());
    add("key", stored_in(key_));
    add("value", stored_in(value_));
    return parts;
  }

  // Keys and values of all slots that no row writes.
  std::vector<char> others() const {
    std::vector<char> all;
    for (const DeviceTensor* pages : {&key_, &value_}) {
      std::vector<char> bytes = pages->bytes();
      const auto size = static_cast<int64_t>(bytes.size()) / (shape_.rows * blocks_ * kBlockSize);
      for (int slot : slots_) {
        if (slot >= 0) std::fill_n(bytes.begin() + slot * size, size, char{0});
      }
      all.insert(all.end(), bytes.begin(), bytes.end());
    }
    return all;
  }

 private:
  static constexpr int kBlockSize = 16;
  static constexpr int kFillingRow = 5;  // of the batch, if it has as many

  DeviceTensor random_of(DType dtype, std::initializer_list<int64_t> sizes, std::mt19937& random) {
    return DeviceTensor::of_random(device_, dtype, sizes, random);
  }
  DeviceTensor& keep(DType type, std::initializer_list<int64_t> sizes,
                     const std::vector<int>& numbers) {
    return kept_.emplace_back(device_, type, sizes, Values(numbers.begin(), numbers.end()));
  }

  void add_norm() const {
    device_.rms_norm_add_norm(product_, weights_.norm, 1e-6f, residual_, weights_.norm, 1e-5f,
                              hidden_);
  }

  // The slot of each row; of the one that fills up, some slot's.
  Values stored_in(const DeviceTensor& pages) const {
    const int64_t width = shape_.kv_heads * shape_.head_size;
    std::vector<int> slots = slots_;
    std::ranges::replace(slots, -1, 0);
    const DeviceTensor indices(device_, DType::kInt32, {shape_.rows},
                               Values(slots.begin(), slots.end()));
    const DeviceTensor rows(device_, pages.tensor().dtype, {shape_.rows, width});
    device_.gather_rows(pages.tensor().view({shape_.rows * blocks_ * kBlockSize, width}), indices,
                        rows);
    return rows.download();
  }

  Device& device_;
  LayersShape shape_;
  const LayerWeights& weights_;
  int blocks_;  // of each sequence
  DeviceTensor residual_, key_, value_, hidden_, product_, qkv_, attention_, gate_up_, gated_;
  std::vector<char> start_;  // of the residual
  std::vector<int> slots_;
  std::deque<DeviceTensor> kept_;
  DeviceTensor *positions_, *slots_tensor_;
  AttentionBatch batch_;
};

TEST_P(GraphTest, LayersAreOneOperationAfterTheOther) {
  for (const LayersShape& shape :
       {LayersShape{1, 64, 128, 4, 2, 16, 0, 40}, LayersShape{1, 2304, 2048, 8, 4, 256, 0, 1000},
        LayersShape{2, 2304, 1088, 8, 4, 256, 300, 2000},
        LayersShape{1, 3584, 1024, 16, 8, 256, 4096, 3000},
        LayersShape{3, 128, 192, 6, 2, 32, 20, 100}, LayersShape{8, 576, 1088, 5, 1, 64, 0, 500},
        LayersShape{8, 1024, 512, 4, 4, 80, 0, 33}, LayersShape{9, 64, 128, 4, 2, 16, 0, 40},
        LayersShape{16, 2304, 1088, 8, 4, 256, 300, 700},
        LayersShape{17, 64, 128, 4, 2, 16, 0, 40}}) {
    const LayerWeights weights(device_, dtype_, shape, random_);
    for (int layers : {1, 3}) {
      SCOPED_TRACE(std::to_string(layers) + " layers, " + std::to_string(shape.rows) + " x " +
                   std::to_string(shape.hidden));
      Layers eager(device_, dtype_, shape, weights, random_);
      Layers kept(device_, dtype_, shape, weights, random_);
      eager.run(layers);
      const auto graph = device_.capture([&] { kept.run(layers); });
      device_.replay(*graph);
      const std::vector<Layers::Part> got = kept.parts();
      const std::vector<Layers::Part> want = eager.parts();
      for (size_t i = 0; i < want.size(); ++i) {
        EXPECT_LT(relative_distance(got[i].values, want[i].values),
                  dtype_ == DType::kFloat32 ? 1e-5 : 1.5e-2 * layers)
            << want[i].name;
      }
      for (int again = 0; again < 10; ++again) {
        kept.reset();
        device_.replay(*graph);
      }
      EXPECT_TRUE(kept.parts() == got);
      EXPECT_TRUE(kept.others() == eager.others());
    }
  }
}

}  // namespace
}  // namespace lorax::testing
