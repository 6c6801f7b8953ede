// The embedding table, of which adapters may have low-rank changes, a copy of their own, or rows of
// their own for some tokens.
#pragma once

#include <string_view>

#include "nn/adapter_batch.h"
#include "nn/weights.h"
#include "ops/ops.h"

namespace lorax {

class MultiAdapterEmbedding {
 public:
  MultiAdapterEmbedding(const Weights& weights, std::string_view name, int64_t vocab_size,
                        int64_t hidden_size);

  // ids [T] int32 -> [T, D] float32, times `scale`. `adapters` describes the rows, or is null.
  Tensor operator()(Context& context, const Tensor& ids, float scale,
                    const AdapterBatchData* adapters) const;

  // [V, D], not scaled.
  const Tensor& weight() const { return weight_; }

 private:
  Tensor weight_;
  int64_t module_;
};

}  // namespace lorax
