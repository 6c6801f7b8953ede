// down(gelu_tanh(gate(x)) * up(x)), with adapters.
#pragma once

#include <cstdint>

#include "nn/adapter_linear.h"

namespace lorax {

class GatedMlp {
 public:
  // The modules gate_proj, up_proj [F, D] and down_proj [D, F] below `weights`.
  GatedMlp(const Weights& weights, int64_t hidden_size, int64_t intermediate_size);

  // hidden [T, D] -> out [T, D], model dtype. `adapters` may be null.
  void forward(Context& context, const Tensor& hidden, const Tensor& out,
               const AdapterBatchData* adapters) const;

 private:
  TensorParallelMultiAdapterLinear gate_up_proj_;  // [2F, D]: gate | up
  TensorParallelAdapterRowLinear down_proj_;       // [D, F]
};

}  // namespace lorax
