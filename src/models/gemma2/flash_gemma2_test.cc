#include "models/gemma2/flash_gemma2.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/factory/device_factory.h"

namespace lorax {
namespace {

// As PyTorch rounds: torch.tensor(size**0.5, dtype=dtype).
TEST(Gemma2EmbeddingScaleTest, IsRoundedToTheModelsDtype) {
  const auto scales = [](int64_t size) {
    return std::vector<float>{gemma2_embedding_scale(DType::kFloat32, size),
                              gemma2_embedding_scale(DType::kBFloat16, size),
                              gemma2_embedding_scale(DType::kFloat16, size)};
  };
  EXPECT_EQ(scales(72), (std::vector<float>{8.485280990600586f, 8.5f, 8.484375f}));
  EXPECT_EQ(scales(2304), (std::vector<float>{48.0f, 48.0f, 48.0f}));
  EXPECT_EQ(scales(3584), (std::vector<float>{59.866519927978516f, 59.75f, 59.875f}));
  EXPECT_EQ(scales(4608), (std::vector<float>{67.88224792480469f, 68.0f, 67.875f}));
}

// Weights of 0, with a copy of the head in which one element may be another.
class SourceWithHead final : public TensorSource {
 public:
  int64_t differs_at = -1;

  std::string describe() const override { return "test"; }
  bool contains(const std::string& name) const override { return name == kHead; }
  void check(const std::string&, std::span<const int64_t>) const override {}
  std::vector<std::string> names() const override { return {}; }
  void read(const std::string& name, int64_t first, int64_t count, DType dtype,
            void* to) const override {
    std::vector<float> values(static_cast<size_t>(count), 0.0f);
    const bool differs = name == kHead && differs_at >= first && differs_at < first + count;
    if (differs) values[static_cast<size_t>(differs_at - first)] = 1.0f;
    convert(values.data(), DType::kFloat32, to, dtype, values.size());
  }

 private:
  static constexpr const char* kHead = "lm_head.weight";
};

Gemma2Config small_config() {
  Gemma2Config config = gemma2_preset("gemma2-2b");
  config.vocab_size = 37;
  config.hidden_size = 24;
  config.intermediate_size = 16;
  config.num_hidden_layers = 1;
  config.layer_is_sliding = {true};
  config.num_attention_heads = config.num_key_value_heads = 1;
  config.head_dim = 32;
  config.max_position_embeddings = config.sliding_window = 64;
  return config;
}

// Wherever the copy differs.
TEST(Gemma2TiedHeadTest, ACopyOfTheHeadMustBeEqualToItsLastElement) {
  const Gemma2Config config = small_config();
  const std::unique_ptr<Device> device = make_device({.name = "cpu", .threads = 1});
  SourceWithHead source;
  const auto build = [&] {
    WeightStore store(*device, source, DType::kFloat32, WeightStore::Mode::kLoad);
    FlashGemma2ForCausalLM("", config, store.root());
  };
  EXPECT_NO_THROW(build());
  for (int64_t element : {int64_t{0}, int64_t{23}, int64_t{24}, 18 * 24 + int64_t{7},
                          36 * int64_t{24}, 37 * int64_t{24} - 1}) {
    source.differs_at = element;
    EXPECT_THROW(build(), Error) << element;
  }
}

}  // namespace
}  // namespace lorax
