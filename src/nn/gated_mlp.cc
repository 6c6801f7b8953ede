#include "nn/gated_mlp.h"

#include <array>

namespace lorax {
namespace {

std::array<Weights::Part, 2> gate_up_parts(int64_t intermediate_size) {
  return {{{"gate_proj", intermediate_size}, {"up_proj", intermediate_size}}};
}

}  // namespace

GatedMlp::GatedMlp(const Weights& weights, int64_t hidden_size, int64_t intermediate_size)
    : gate_up_proj_(weights, gate_up_parts(intermediate_size), hidden_size),
      down_proj_(weights, "down_proj", hidden_size, intermediate_size) {}

void GatedMlp::forward(Context& context, const Tensor& hidden, const Tensor& out,
                       const AdapterBatchData* adapters) const {
  const Tensor product = gate_up_proj_.gelu_tanh_mul(context, hidden, adapters);  // [T, F]
  down_proj_.into(context, product, out, adapters);
}

}  // namespace lorax
