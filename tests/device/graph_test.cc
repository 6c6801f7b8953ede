// Graphs of decode steps, which a GPU runs as programs of its own (device/cuda/program.h): the same
// results as one operation after the other, whatever the graph holds.
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <numeric>
#include <tuple>

#include "device_tensor.h"
#include "reference_ops.h"

namespace lorax::testing {
namespace {

size_t count(int64_t n) { return static_cast<size_t>(n); }

std::string name_of_param(
    const ::testing::TestParamInfo<std::tuple<std::string, DType>>& param_info) {
  return std::get<0>(param_info.param) + "_" + std::string(name_of(std::get<1>(param_info.param)));
}

class GraphTest : public ::testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  void SetUp() override {
    if (!device_.can_capture()) GTEST_SKIP() << "keeps no graphs";
  }

  DeviceTensor random(DType dtype, std::initializer_list<int64_t> shape, double scale = 1.0) {
    int64_t n = 1;
    for (int64_t size : shape) n *= size;
    return DeviceTensor(device_, dtype, shape, random_values(random_, dtype, count(n), scale));
  }
  DeviceTensor random(std::initializer_list<int64_t> shape, double scale = 1.0) {
    return random(dtype_, shape, scale);
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
  for (const Shape& shape : {Shape{2, 8}, Shape{34, 72}, Shape{130, 520}, Shape{1024, 1032},
                             Shape{2304, 2048}, Shape{83 * 2, 9216}, Shape{5000, 257 * 8}}) {
    const DeviceTensor weight = random({shape.m, shape.n}, 1.0 / std::sqrt(shape.n));
    const Values weights = weight.download();
    for (int64_t rows : {1, 2, 3, 8, 9}) {
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
      expect_close(floats.download(), want, {0.0, 1e-5});
      expect_close(rounded.download(), want, rounding(dtype_, 0.0, 1e-5));
      // Of what a product rounds to, rounding may go either way.
      Values gate_up = want;
      for (double& value : gate_up) value = testing::rounded(value, dtype_);
      const double unit = dtype_ == DType::kFloat32 ? 0x1p-21 : 0x1p-7;
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

// Some layers of a decoder, with everything that they read and write.
struct LayersShape {
  int64_t rows, hidden, intermediate, heads, kv_heads, head_size;
  int window;
  int longest;  // sequence
};

class Layers {
 public:
  Layers(Device& device, DType dtype, const LayersShape& shape, std::mt19937& random)
      : device_(device), dtype_(dtype), shape_(shape) {
    const auto make = [&](DType type, std::initializer_list<int64_t> sizes, double scale) {
      int64_t n = 1;
      for (int64_t size : sizes) n *= size;
      return DeviceTensor(device, type, sizes, random_values(random, type, count(n), scale));
    };
    const auto integers = [&](DType type, std::initializer_list<int64_t> sizes,
                              const std::vector<int>& numbers) {
      return DeviceTensor(device, type, sizes, Values(numbers.begin(), numbers.end()));
    };
    const int64_t qkv = (shape.heads + 2 * shape.kv_heads) * shape.head_size;
    const double h = 1.0 / std::sqrt(shape.hidden);
    qkv_weight_ = &keep(make(dtype, {qkv, shape.hidden}, h));
    o_weight_ = &keep(make(dtype, {shape.hidden, shape.heads * shape.head_size},
                           1.0 / std::sqrt(shape.heads * shape.head_size)));
    gate_up_weight_ = &keep(make(dtype, {2 * shape.intermediate, shape.hidden}, h));
    down_weight_ =
        &keep(make(dtype, {shape.hidden, shape.intermediate}, 1.0 / std::sqrt(shape.intermediate)));
    norm_ = &keep(make(DType::kFloat32, {shape.hidden}, 1.0));
    residual_ = &keep(make(DType::kFloat32, {shape.rows, shape.hidden}, 1.0));
    start_ = residual_->download();

    std::vector<int> lengths, starts(count(shape.rows + 1)), tables, positions, slots;
    std::iota(starts.begin(), starts.end(), 0);
    const int blocks = (shape.longest + kBlockSize - 1) / kBlockSize;
    for (int row = 0; row < shape.rows; ++row) {
      const int length = std::max(1, shape.longest - row * 37 % shape.longest);
      lengths.push_back(row == 5 ? 0 : length);  // a row that fills up the batch
      for (int block = 0; block < blocks; ++block) {
        tables.push_back(row * blocks + blocks - 1 - block);
      }
      positions.push_back(length - 1);
      const int at = tables[count(row * blocks + (length - 1) / kBlockSize)] * kBlockSize;
      slots.push_back(row == 5 ? -1 : at + (length - 1) % kBlockSize);
    }
    for (DeviceTensor*& pages : pages_) {
      pages = &keep(
          make(dtype, {shape.rows * blocks, kBlockSize, shape.kv_heads, shape.head_size}, 1.0));
    }
    positions_ = &keep(integers(DType::kInt32, {shape.rows}, positions));
    slots_ = &keep(integers(DType::kInt64, {shape.rows}, slots));
    batch_ = {.cu_seqlens_q = keep(integers(DType::kInt32, {shape.rows + 1}, starts)),
              .kv_lengths = keep(integers(DType::kInt32, {shape.rows}, lengths)),
              .block_tables = keep(integers(DType::kInt32, {shape.rows, blocks}, tables)),
              .max_q = 1,
              .max_kv = shape.longest + 100};
    cos_ = &keep(make(DType::kFloat32, {shape.longest, shape.head_size / 2}, 0.7));
    sin_ = &keep(make(DType::kFloat32, {shape.longest, shape.head_size / 2}, 0.7));
    hidden_ = &keep(DeviceTensor(device, dtype, {shape.rows, shape.hidden}));
    product_ = &keep(DeviceTensor(device, dtype, {shape.rows, shape.hidden}));
    qkv_ = &keep(DeviceTensor(device, dtype, {shape.rows, qkv}));
    attention_ = &keep(DeviceTensor(device, dtype, {shape.rows, shape.heads, shape.head_size}));
    gate_up_ = &keep(DeviceTensor(device, dtype, {shape.rows, 2 * shape.intermediate}));
    gated_ = &keep(DeviceTensor(device, dtype, {shape.rows, shape.intermediate}));
  }

  void run(int layers) const {
    device_.rms_norm(*residual_, *norm_, 1e-6f, *hidden_);
    for (int layer = 0; layer < layers; ++layer) {
      device_.linear(*hidden_, *qkv_weight_, *qkv_);
      const Tensor heads =
          qkv_->tensor().split_last(shape_.heads + 2 * shape_.kv_heads, shape_.head_size);
      const Tensor query = heads.slice(1, 0, shape_.heads);
      const Tensor key = heads.slice(1, shape_.heads, shape_.heads + shape_.kv_heads);
      const Tensor value = heads.slice(1, shape_.heads + shape_.kv_heads, heads.dim(1));
      const PagedKv kv{*pages_[0], *pages_[1]};
      device_.rotary_store_kv(query, key, value, *positions_, *cos_, *sin_, *slots_, kv);
      device_.attention(query, kv, batch_,
                        {.scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_size)),
                         .softcap = 50.0f,
                         .window = shape_.window},
                        *attention_);
      const Tensor rows = attention_->tensor().view({shape_.rows, shape_.heads * shape_.head_size});
      device_.linear(rows, *o_weight_, *product_);
      device_.rms_norm_add_norm(*product_, *norm_, 1e-6f, *residual_, *norm_, 1e-5f, *hidden_);
      device_.linear_gelu_tanh_mul(*hidden_, *gate_up_weight_, *gate_up_, *gated_);
      device_.linear(*gated_, *down_weight_, *product_);
      device_.rms_norm_add_norm(*product_, *norm_, 1e-6f, *residual_, *norm_, 1e-5f, *hidden_);
    }
  }

  // The residual as it was at first.
  void reset() {
    std::vector<float> values(start_.begin(), start_.end());
    device_.copy_from_host(residual_->tensor().data, values.data(), values.size() * sizeof(float));
    device_.synchronize();
  }

  // What a step leaves behind, but for the row that fills up.
  Values outcome() const {
    Values all;
    for (const DeviceTensor* tensor : {residual_, hidden_}) {
      const Values values = tensor->download();
      for (size_t i = 0; i < values.size(); ++i) {
        if (i / count(shape_.hidden) != 5) all.push_back(values[i]);
      }
    }
    for (const DeviceTensor* pages : pages_) {
      const Values values = pages->download();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }

 private:
  static constexpr int kBlockSize = 16;

  DeviceTensor& keep(DeviceTensor tensor) { return kept_.emplace_back(std::move(tensor)); }

  Device& device_;
  DType dtype_;
  LayersShape shape_;
  std::deque<DeviceTensor> kept_;
  Values start_;
  DeviceTensor *qkv_weight_, *o_weight_, *gate_up_weight_, *down_weight_, *norm_, *residual_;
  DeviceTensor* pages_[2];
  DeviceTensor *positions_, *slots_, *cos_, *sin_;
  DeviceTensor *hidden_, *product_, *qkv_, *attention_, *gate_up_, *gated_;
  AttentionBatch batch_;
};

double relative_distance(const Values& got, const Values& want) {
  double difference = 0.0;
  double size = 0.0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(difference / size);
}

TEST_P(GraphTest, LayersAreOneOperationAfterTheOther) {
  for (const LayersShape& shape :
       {LayersShape{1, 64, 128, 4, 2, 16, 0, 40}, LayersShape{1, 2304, 2048, 8, 4, 256, 0, 1000},
        LayersShape{2, 2304, 1000, 8, 4, 256, 300, 2000},
        LayersShape{1, 3584, 1024, 16, 8, 256, 4096, 3000},
        LayersShape{3, 96, 200, 6, 2, 32, 20, 100}, LayersShape{8, 520, 1048, 5, 1, 64, 0, 500},
        LayersShape{8, 1024, 512, 4, 4, 80, 0, 33}, LayersShape{9, 64, 128, 4, 2, 16, 0, 40}}) {
    for (int layers : {1, 3}) {
      SCOPED_TRACE(std::to_string(layers) + " layers, " + std::to_string(shape.rows) + " x " +
                   std::to_string(shape.hidden));
      std::mt19937 same = random_;
      Layers eager(device_, dtype_, shape, random_);
      Layers kept(device_, dtype_, shape, same);
      eager.run(layers);
      const auto graph = device_.capture([&] { kept.run(layers); });
      device_.replay(*graph);
      const Values got = kept.outcome();
      EXPECT_LT(relative_distance(got, eager.outcome()), dtype_ == DType::kFloat32 ? 1e-5 : 1e-2);
      for (int again = 0; again < 10; ++again) {
        kept.reset();
        device_.replay(*graph);
      }
      EXPECT_EQ(relative_distance(kept.outcome(), got), 0.0);
    }
  }
}

}  // namespace
}  // namespace lorax::testing
