#include "nn/weights.h"
#include "device/factory/device_factory.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>

#include "device/dry_run.h"
#include "formats/safetensors_writer.h"
#include "formats/testing/test_directory.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

class WeightsTest : public TestWithDirectory {
 protected:
  // A tensor of consecutive values.
  struct Entry {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
    float first;
  };

  SafetensorsCheckpoint write(const std::vector<Entry>& entries) {
    std::vector<SafetensorsWriter::Declaration> declarations;
    for (const Entry& entry : entries) {
      declarations.push_back({entry.name, entry.dtype, entry.shape});
    }
    SafetensorsWriter writer(directory_ / "model.safetensors", declarations);
    for (size_t i = 0; i < entries.size(); ++i) {
      int64_t count = 1;
      for (int64_t dim : entries[i].shape) count *= dim;
      std::vector<float> values(static_cast<size_t>(count));
      std::iota(values.begin(), values.end(), entries[i].first);
      std::vector<char> bytes(values.size() * size_of(entries[i].dtype));
      if (is_float(entries[i].dtype)) {  // what is no float is there to be refused
        convert(values.data(), DType::kFloat32, bytes.data(), entries[i].dtype, values.size());
      }
      writer.write(i, 0, bytes.data(), bytes.size());
    }
    writer.finish();
    return SafetensorsCheckpoint::open(directory_);
  }

  static std::vector<float> values(const Tensor& tensor) {
    std::vector<float> out(static_cast<size_t>(tensor.numel()));
    convert(tensor.data, tensor.dtype, out.data(), DType::kFloat32, out.size());
    return out;
  }

  static bool is_float(DType dtype) { return dtype != DType::kInt32 && dtype != DType::kInt64; }

  std::unique_ptr<Device> device_ = make_device({.name = "cpu", .threads = 2});
};

TEST_F(WeightsTest, LoadsEveryDTypeIntoEachModelDType) {
  for (DType stored : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    const SafetensorsCheckpoint checkpoint = write({{"a.w.weight", stored, {3, 4}, 1.0f}});
    const CheckpointSource source(checkpoint);
    for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      WeightStore store(*device_, source, dtype, WeightStore::Mode::kLoad, 2);
      const Tensor tensor = store.root()["a"].matrix("w", 3, 4);
      EXPECT_EQ(tensor.dtype, dtype);
      EXPECT_EQ(values(tensor), (std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}));
      EXPECT_EQ(store.bytes(), 12 * size_of(dtype));
      store.finish();
    }
  }
}

TEST_F(WeightsTest, StacksMatricesAndAddsToVectors) {
  const SafetensorsCheckpoint checkpoint = write({{"q.weight", DType::kFloat32, {2, 2}, 1.0f},
                                                  {"k.weight", DType::kBFloat16, {1, 2}, 5.0f},
                                                  {"n.weight", DType::kFloat16, {3}, 0.0f}});
  const CheckpointSource source(checkpoint);
  WeightStore store(*device_, source, DType::kFloat32, WeightStore::Mode::kLoad);
  const Weights::Part parts[] = {{"q", 2}, {"k", 1}};
  EXPECT_EQ(values(store.root().stacked(parts, 2)), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(values(store.root().vector_float32("n", 3, 1.0f)), (std::vector<float>{1, 2, 3}));
}

TEST_F(WeightsTest, LargeTensorsArriveWholeFromSeveralThreads) {
  // Three chunks of the loader and a rest; values stay below what float16 and bfloat16 tell apart.
  const int64_t rows = 3 * 4096 + 7;
  const SafetensorsCheckpoint checkpoint = write({{"w.weight", DType::kFloat32, {rows, 1024}, 0}});
  const CheckpointSource source(checkpoint);
  uint64_t seen = 0;
  WeightStore store(*device_, source, DType::kFloat32, WeightStore::Mode::kLoad, 3,
                    [&](uint64_t bytes) { seen = std::max(seen, bytes); });
  const Tensor tensor = store.root().matrix("w", rows, 1024);
  const float* data = tensor.as<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) ASSERT_EQ(data[i], static_cast<float>(i));
  EXPECT_EQ(seen, tensor.bytes());
}

// Memory that the host reaches by copies alone.
class SeparateDevice final : public DryRunDevice {
 public:
  void* allocate(size_t bytes) override { return ::operator new(bytes); }
  void deallocate(void* data, size_t) override { ::operator delete(data); }
  void copy_from_host(void* to, const void* from, size_t bytes) override {
    std::memcpy(to, from, bytes);
  }
};

TEST_F(WeightsTest, LargeTensorsArriveWholeWhereTheyAreCopied) {
  const int64_t rows = 2 * 4096 + 5;
  const SafetensorsCheckpoint checkpoint = write({{"v.weight", DType::kFloat32, {3, 1024}, 5},
                                                  {"w.weight", DType::kFloat32, {rows, 1024}, 0}});
  const CheckpointSource source(checkpoint);
  SeparateDevice device;
  WeightStore store(device, source, DType::kFloat32, WeightStore::Mode::kLoad, 3);
  const Weights::Part parts[] = {{"v", 3}, {"w", rows}};
  const Tensor tensor = store.root().stacked(parts, 1024);
  const float* data = tensor.as<float>();
  for (int64_t i = 0; i < 3 * 1024; ++i) ASSERT_EQ(data[i], static_cast<float>(i + 5));
  data += 3 * 1024;
  for (int64_t i = 0; i < rows * 1024; ++i) ASSERT_EQ(data[i], static_cast<float>(i));
}

TEST_F(WeightsTest, CheckingReadsNothing) {
  const SafetensorsCheckpoint checkpoint = write({{"w.weight", DType::kFloat32, {3, 4}, 1.0f}});
  fs::resize_file(directory_ / "model.safetensors", 100);  // no data left to read
  const CheckpointSource source(checkpoint);
  DryRunDevice device;
  WeightStore store(device, source, DType::kBFloat16, WeightStore::Mode::kCheck);
  EXPECT_TRUE(store.root().matrix("w", 3, 4).has_shape({3, 4}));
  EXPECT_EQ(store.bytes(), 24u);
  WeightStore loading(*device_, source, DType::kBFloat16, WeightStore::Mode::kLoad);
  EXPECT_NE(error_of([&] { loading.root().matrix("w", 3, 4); }).find("shorter"), std::string::npos);
}

TEST_F(WeightsTest, ErrorsNameTheTensor) {
  const SafetensorsCheckpoint checkpoint = write({{"w.weight", DType::kFloat32, {3, 4}, 1.0f},
                                                  {"i.weight", DType::kInt64, {2}, 1.0f},
                                                  {"extra", DType::kFloat32, {1}, 1.0f}});
  const CheckpointSource source(checkpoint);
  WeightStore store(*device_, source, DType::kFloat32, WeightStore::Mode::kLoad);
  const Weights root = store.root();
  const auto mentions = [](const std::string& error, std::string_view part) {
    return error.find(part) != std::string::npos;
  };
  EXPECT_TRUE(mentions(error_of([&] { root.matrix("v", 3, 4); }), "v.weight is missing"));
  EXPECT_TRUE(mentions(error_of([&] { root.matrix("w", 4, 3); }), "[3, 4]"));
  EXPECT_TRUE(mentions(error_of([&] { root.vector_float32("i", 2, 0); }), "I64"));
  root.matrix("w", 3, 4);
  EXPECT_TRUE(mentions(error_of([&] { store.finish(); }), "extra"));
}

TEST_F(WeightsTest, RandomWeightsAreReproducibleAndSpread) {
  const RandomSource source(7);
  std::vector<float> all(4096);
  source.read("w.weight", 0, 4096, DType::kFloat32, all.data());
  std::vector<float> part(100);
  source.read("w.weight", 1001, 100, DType::kFloat32, part.data());
  EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + 1001));
  double sum = 0.0;
  double squares = 0.0;
  for (float value : all) {
    sum += value;
    squares += static_cast<double>(value) * value;
  }
  EXPECT_NEAR(std::sqrt(squares / 4096), 0.02, 0.001);
  EXPECT_NEAR(sum / 4096, 0.0, 0.002);
  std::vector<float> other(100);
  source.read("v.weight", 1001, 100, DType::kFloat32, other.data());
  EXPECT_NE(other, part);
}

}  // namespace
}  // namespace lorax
