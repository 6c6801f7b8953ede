// Rotary position embedding, as Hugging Face computes it: inverse frequencies theta^(-2i/d) and
// angles position * inverse frequency in float32, then cosine and sine.
#pragma once

#include "nn/weights.h"
#include "ops/ops.h"

namespace lorax {

class RotaryEmbedding {
 public:
  // Tables for positions [0, max_positions), kept in `store`.
  RotaryEmbedding(WeightStore& store, int64_t head_dim, float theta, int64_t max_positions);

  // x [T, heads, d] in place; positions [T] int32.
  void operator()(Context& context, const Tensor& x, const Tensor& positions) const {
    ops::rotary(context, x, positions, cos_, sin_);
  }

  // q [T, H, d] in place, k and v [T, K, d] into the pages.
  void store(Context& context, const Tensor& q, const Tensor& k, const Tensor& v,
             const Tensor& positions, const Tensor& slots, const PagedKv& kv) const {
    ops::rotary_store_kv(context, q, k, v, positions, cos_, sin_, slots, kv);
  }

 private:
  Tensor cos_;  // [max_positions, d/2] float32
  Tensor sin_;
};

}  // namespace lorax
