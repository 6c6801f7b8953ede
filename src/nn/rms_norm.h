// RMSNorm, whose weight adapters may replace, and what waits to be added to the residual stream.
#pragma once

#include <cstdint>
#include <string_view>

#include "nn/adapter_batch.h"
#include "nn/weights.h"
#include "ops/ops.h"

namespace lorax {

class RmsNorm;

// What a sublayer gave and the residual has not got yet: residual += norm(x). The next norm takes
// it, so that both are one operation, and no layer needs to know the one after it.
struct Pending {
  Tensor x;                       // [T, D], model dtype
  const RmsNorm* norm = nullptr;  // null: nothing waits
};

// norm(x) = x / sqrt(mean(x^2) + eps) * w, all in float32.
class RmsNorm {
 public:
  // `offset` is added to the weight once, in float32: Gemma's 1 + w.
  RmsNorm(const Weights& weights, std::string_view name, int64_t size, float eps, float offset);

  // residual [T, D] float32 takes what is pending; then out [T, D] = norm(residual), rounded once
  // to the dtype of `out`. Adapters may have weights of their own; null: none.
  void after(Context& context, const Pending& pending, const Tensor& residual, const Tensor& out,
             const AdapterBatchData* adapters) const;

 private:
  void into(Context& context, const Tensor& x, const Tensor& out,
            const AdapterBatchData* adapters) const;
  bool is_replaced(const AdapterBatchData* adapters) const {
    return adapters != nullptr && adapters->has_replacement(module_);
  }
  // Calls norm(begin, end, weight) for rows that share a weight.
  template <typename Norm>
  void for_each_weight(int64_t rows, const AdapterBatchData* adapters, const Norm& norm) const;

  Tensor weight_;  // [D] float32
  int64_t module_;
  float eps_;
};

}  // namespace lorax
