// The weights of a checkpoint with an adapter merged into them, in float32: another way to the same
// model, to check an adapter by.
#pragma once

#include <string>

#include "adapters/peft/adapter.h"
#include "adapters/peft/device_base_weights.h"
#include "nn/tensor_source.h"

namespace lorax {

class MergedSource final : public TensorSource {
 public:
  // For a model whose head is a matrix of its own (ModelDefinition::untied): the source gives it a
  // copy of the embedding if `checkpoint` has no head. `modules` and `base` are those of the model
  // that the adapter was read against, in float32. All must outlive this. Throws Error for an
  // adapter that no weights can stand for (lora_bias).
  MergedSource(const TensorSource& checkpoint, const Adapter& adapter,
               std::span<const AdapterModule> modules, const DeviceBaseWeights& base);

  std::string describe() const override { return checkpoint_.describe(); }
  bool contains(const std::string& name) const override;
  void check(const std::string& name, std::span<const int64_t> shape) const override;
  std::vector<std::string> names() const override;
  void read(const std::string& name, int64_t first, int64_t count, DType dtype,
            void* to) const override;

 private:
  // What is done to one tensor.
  struct Change {
    const AdapterModule* module = nullptr;
    const HostTensor* replacement = nullptr;
    const TokenWeights* tokens = nullptr;
    bool has_lora = false;
    std::vector<float> left;   // [rows, rank], times scale
    std::vector<float> right;  // [rank, columns]
    std::vector<float> gain;   // DoRA's, [out]
  };

  // The tensor of the checkpoint that holds the base's values.
  const std::string& base_name(const std::string& name) const;
  static void put_tokens(const Change& change, int64_t first, std::span<float> values);
  void apply(const Change& change, int64_t first, std::span<float> values) const;

  const TensorSource& checkpoint_;
  std::string head_;   // the name of the head's tensor
  std::string table_;  // and of the embedding's
  std::map<std::string, Change> changes_;
};

}  // namespace lorax
