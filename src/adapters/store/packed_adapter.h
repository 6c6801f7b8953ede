// An adapter in the form that kernels read (device/lora.h): one block of bytes of exactly the size
// it needs, that can be copied anywhere as a whole.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "adapters/peft/adapter.h"
#include "adapters/peft/device_base_weights.h"
#include "adapters/store/factor_precision.h"
#include "nn/adapter_tables.h"

namespace lorax {

class PackedAdapter {
 public:
  // Converts the weights to `dtype`, the model's, LoRA's factors in the forms of `precision`, which
  // is choose_precision()'s; `memory` gives the block, which must be host memory. DoRA's norms are
  // computed here, from the base's weights in float32 (PEFT's get_weight_norm), which takes a
  // while. Throws Error if there is no memory.
  PackedAdapter(const Adapter& adapter, std::span<const AdapterModule> modules,
                const DeviceBaseWeights& base, const AdapterPrecision& precision, DType dtype,
                Device& memory);

  // What the block takes.
  static uint64_t bytes_for(const Adapter& adapter, std::span<const AdapterModule> modules,
                            const AdapterPrecision& precision, DType dtype);

  const void* data() const { return block_.data(); }
  uint64_t bytes() const { return block_.bytes(); }
  // aLoRA's tokens, PeftConfig::alora_invocation.
  const std::vector<int32_t>& invocation() const { return invocation_; }
  // The content of a slot whose adapter's block, or a copy of it, lies at `block`.
  AdapterSlot at(const void* block) const;

 private:
  // The block's parts, as offsets.
  struct LoraPlace {
    int64_t a = 0, b = 0, bias = -1, gain = -1;  // -1: not there
    int32_t rank = 0;                            // of the form, as is scale
    float scale = 0.0f;
  };
  struct TensorPlace {
    int64_t offset = 0;
    DType dtype = DType::kFloat32;
    std::vector<int64_t> shape;
  };
  struct TokensPlace {
    TensorPlace tokens;
    TensorPlace rows;
  };
  struct HeadPlace {
    std::vector<std::pair<TensorPlace, TensorPlace>> blocks;  // weight and bias
    TensorPlace output;                                       // without shape: none
  };
  struct Layout {
    std::map<size_t, LoraPlace> lora;
    std::map<size_t, TensorPlace> replaced;
    std::map<size_t, TokensPlace> tokens;
    std::vector<HeadPlace> medusa;
    uint64_t bytes = 0;
  };

  static Layout make_layout(const Adapter& adapter, std::span<const AdapterModule> modules,
                            const AdapterPrecision& precision, DType dtype);
  char* block_at(int64_t offset) { return static_cast<char*>(block_.data()) + offset; }
  void write_factors(const LoraWeights& weights, const AdapterModule& module,
                     const LoraPlace& place);
  void write_lora(const LoraWeights& weights, const AdapterModule& module, const FactorForm& form,
                  const LoraPlace& place);
  void write_tensor(const HostTensor& tensor, const TensorPlace& place);
  static Tensor tensor_at(const char* block, const TensorPlace& place);

  DType dtype_;
  size_t modules_;
  std::vector<int32_t> invocation_;
  Layout layout_;
  Buffer block_;
};

}  // namespace lorax
