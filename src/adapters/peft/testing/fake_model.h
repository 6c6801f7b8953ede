// A model of two layers for the tests of this floor: its modules and what it says of its weights.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "adapters/peft/base_model.h"
#include "base/check.h"

namespace lorax {

class FakeModel final : public BaseWeights {
 public:
  static constexpr int64_t kHidden = 8, kVocab = 20, kQueries = 12, kKeys = 6, kInner = 10;

  explicit FakeModel(bool tied = true) : tied_(tied) {
    using Kind = AdapterModule::Kind;
    add("model.embed_tokens", Kind::kEmbedding, kVocab, kHidden);
    for (int layer = 0; layer < 2; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      add(prefix + "self_attn.q_proj", Kind::kLinear, kHidden, kQueries);
      add(prefix + "self_attn.k_proj", Kind::kLinear, kHidden, kKeys);
      add(prefix + "self_attn.v_proj", Kind::kLinear, kHidden, kKeys);
      add(prefix + "self_attn.o_proj", Kind::kLinear, kQueries, kHidden);
      add(prefix + "mlp.gate_proj", Kind::kLinear, kHidden, kInner);
      add(prefix + "mlp.up_proj", Kind::kLinear, kHidden, kInner);
      add(prefix + "mlp.down_proj", Kind::kLinear, kInner, kHidden);
      add(prefix + "input_layernorm", Kind::kNorm, 0, kHidden);
      add(prefix + "post_attention_layernorm", Kind::kNorm, 0, kHidden);
    }
    add("model.norm", Kind::kNorm, 0, kHidden);
    add("lm_head", Kind::kLinear, kHidden, kVocab);
  }

  BaseModel base() const { return {modules_, this, "served/model"}; }
  const std::vector<AdapterModule>& modules() const { return modules_; }
  size_t index(const std::string& name) const {
    for (size_t i = 0; i < modules_.size(); ++i) {
      if (modules_[i].name == name) return i;
    }
    LORAX_CHECK(false, "{}", name);
    return 0;
  }

  // Every weight of this model is 0.5 throughout.
  static constexpr float kWeight = 0.5f;
  bool equals(size_t, const HostTensor& weight) const override {
    for (float value : weight.floats()) {
      if (value != kWeight) return false;
    }
    return true;
  }
  std::optional<size_t> tied_to(size_t module) const override {
    if (!tied_) return std::nullopt;
    if (module == 0) return modules_.size() - 1;
    if (module == modules_.size() - 1) return 0;
    return std::nullopt;
  }

 private:
  void add(std::string name, AdapterModule::Kind kind, int64_t in, int64_t out) {
    modules_.push_back({std::move(name), kind, in, out, {}});
  }

  bool tied_;
  std::vector<AdapterModule> modules_;
};

}  // namespace lorax
