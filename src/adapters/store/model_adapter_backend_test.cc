#include "adapters/store/model_adapter_backend.h"

#include "device/factory/device_factory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "adapters/peft/testing/test_adapter.h"
#include "device/device.h"

namespace lorax {
namespace {

const std::string kQ0 = "model.layers.0.self_attn.q_proj";

class ModelAdapterBackendTest : public TestWithAdapter {
 protected:
  // Of twice `pairs` ranks, whose products cancel but for a thousandth.
  void write_cancelling(int64_t pairs) const {
    write_cancelling(pairs, model_.modules()[model_.index(kQ0)]);
  }
  void write_cancelling(int64_t pairs, const AdapterModule& module) const {
    const int64_t rank = 2 * pairs;
    std::vector<float> a(static_cast<size_t>(rank * module.in));
    std::vector<float> b(static_cast<size_t>(module.out * rank));
    for (int64_t k = 0; k < rank; ++k) {
      for (int64_t i = 0; i < module.in; ++i) {
        const float value = 1.0f + static_cast<float>((k / 2 * 37 + i * 11) % 101) / 101.0f;
        a[static_cast<size_t>(k * module.in + i)] = k % 2 == 0 ? value : -1.001f * value;
      }
      for (int64_t i = 0; i < module.out; ++i) {
        b[static_cast<size_t>(i * rank + k)] = 0.3f + static_cast<float>(i + k / 2 % 5) / 7.0f;
      }
    }
    const std::string prefix = "base_model.model." + kQ0;
    write_adapter(
        fmt::format(R"("r": {}, "lora_alpha": {}, "target_modules": ["layers.0.self_attn.q_proj"])",
                    rank, rank),
        {{prefix + ".lora_A.weight", HostTensor::from_floats(a, {rank, module.in})},
         {prefix + ".lora_B.weight", HostTensor::from_floats(b, {module.out, rank})}});
  }

  std::unique_ptr<HostAdapter> load() { return load(backend_); }
  std::unique_ptr<HostAdapter> load(ModelAdapterBackend& backend) const {
    const std::string id = directory_.string();
    return backend.load(id, backend.probe(id));
  }

  int64_t said(const std::string& text) const {
    return std::ranges::count_if(warnings_, [&](const std::string& warning) {
      return warning.find(text) != std::string::npos;
    });
  }

  std::unique_ptr<Device> device_ = make_device({.name = "cpu", .threads = 1});
  AdapterTables tables_{*device_, static_cast<int64_t>(model_.modules().size()), 1,
                        DType::kBFloat16};
  std::vector<std::string> warnings_;
  ModelAdapterBackend backend_{*device_, model_.modules(), tables_, "",
                               [this](const std::string& text) { warnings_.push_back(text); }};
};

TEST_F(ModelAdapterBackendTest, SaysOnceThatFactorsAreKeptInThreeParts) {
  write_cancelling(4);
  const std::unique_ptr<HostAdapter> adapter = load();
  // A and one panel of B, of three times rank 8.
  EXPECT_EQ(adapter->host_bytes(), (24U * 8 + 24 * 64) * 2);
  load();
  EXPECT_EQ(said("are kept in three parts"), 1);
  EXPECT_EQ(said("would exceed rank"), 0);
}

TEST_F(ModelAdapterBackendTest, SaysOnceWhyFactorsAreRounded) {
  write_cancelling(100);
  const std::unique_ptr<HostAdapter> adapter = load();
  EXPECT_EQ(adapter->host_bytes(), (200U * 8 + 200 * 64) * 2);
  load();
  EXPECT_EQ(said("three parts of rank 200 would exceed rank 512"), 1);
  EXPECT_EQ(said("are kept in three parts"), 0);
}

// Three parts of float32 files are more than the files; what is set aside before reading covers it.
TEST_F(ModelAdapterBackendTest, RoomForThreeParts) {
  const std::vector<AdapterModule> modules = {{kQ0, AdapterModule::Kind::kLinear, 2048, 4096, {}}};
  AdapterTables tables(*device_, 1, 1, DType::kBFloat16);
  ModelAdapterBackend backend(*device_, modules, tables, "", [](const std::string&) {});
  write_cancelling(85, modules[0]);
  const std::unique_ptr<HostAdapter> adapter = load(backend);
  EXPECT_EQ(adapter->host_bytes(), 510U * (2048 + 4096) * 2);
}

}  // namespace
}  // namespace lorax
