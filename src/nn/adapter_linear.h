// Linear layers whose rows may each have an adapter of their own, under LoRAX's names. Without
// adapters in the batch they are the plain product.
#pragma once

#include <string_view>
#include <vector>

#include "nn/adapter_batch.h"
#include "nn/weights.h"
#include "ops/ops.h"

namespace lorax {

// One or several modules with one input, stacked into one product: q, k, v or gate, up.
class TensorParallelMultiAdapterLinear {
 public:
  TensorParallelMultiAdapterLinear(const Weights& weights, std::span<const Weights::Part> parts,
                                   int64_t columns);

  // x [T, columns] -> [T, sum of the parts' rows], dtype of x. `adapters` may be null.
  Tensor operator()(Context& context, const Tensor& x, const AdapterBatchData* adapters) const;

  // Of two parts, gate and up: gelu_tanh(gate) * up, [T, rows of a part]. Rounded as the product
  // followed by ops::gelu_tanh_mul.
  Tensor gelu_tanh_mul(Context& context, const Tensor& x, const AdapterBatchData* adapters) const;

 private:
  Tensor weight_;
  std::vector<LoraTarget> targets_;
};

// One module: o_proj, down_proj.
class TensorParallelAdapterRowLinear {
 public:
  TensorParallelAdapterRowLinear(const Weights& weights, std::string_view name, int64_t rows,
                                 int64_t columns);

  // x [T, columns] -> [T, rows], dtype of x. `adapters` may be null.
  Tensor operator()(Context& context, const Tensor& x, const AdapterBatchData* adapters) const;
  void into(Context& context, const Tensor& x, const Tensor& out,
            const AdapterBatchData* adapters) const;

 private:
  Tensor weight_;
  LoraTarget target_;
};

struct HeadOutput {
  Tensor logits;  // [N, V] float32
  // [N, heads, V] float32, strided, with the most Medusa heads of an adapter of the batch; none
  // without Medusa. What a row's adapter has no head for is not written.
  Tensor speculative_logits;
};

// The head of the model with its soft-cap, and the Medusa heads of the rows' adapters.
class MultiAdapterHead {
 public:
  // weight [V, D] is the module `name`; cap 0: none.
  MultiAdapterHead(const Weights& weights, std::string_view name, const Tensor& weight,
                   float softcap);

  // x [N, D], model dtype. `adapters` describes its rows, or is null.
  HeadOutput operator()(Context& context, const Tensor& x, const AdapterBatchData* adapters) const;

 private:
  Tensor speculate(Context& context, const Tensor& x, const AdapterBatchData& adapters) const;
  void speculate_run(Context& context, const Tensor& x, const MedusaHead& head,
                     const Tensor& logits) const;

  Tensor weight_;
  LoraTarget target_;
  float softcap_;
};

}  // namespace lorax
