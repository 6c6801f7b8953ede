// Gemma 2, in the classes and the order of statements of LoRAX's flash_gemma2_modeling.py, exact to
// Hugging Face's Gemma2ForCausalLM (docs/NUMERICS.md lists every rounding point).
//
// The residual stream is float32 in both model dtypes; what flows between two products is of the
// model dtype. Constructors take the scope of their weights and mirror the tree of names.
#pragma once

#include <vector>

#include "models/causal_lm.h"
#include "models/gemma2/config.h"
#include "nn/adapter_embedding.h"
#include "nn/adapter_linear.h"
#include "nn/rotary.h"

namespace lorax {

// What embeddings are multiplied with: sqrt(hidden_size), rounded to the model's dtype as Hugging
// Face's `normalizer` is.
float gemma2_embedding_scale(DType dtype, int64_t hidden_size);

class Gemma2FastRMSNorm {
 public:
  // Folds Gemma's 1 + w into the weight, in float32.
  Gemma2FastRMSNorm(const Weights& weights, std::string_view name, int64_t size, float eps);

  // x [T, D] -> [T, D] of `out_dtype`. Adapters may have norms of their own; null: none.
  Tensor operator()(Context& context, const Tensor& x, DType out_dtype,
                    const AdapterBatchData* adapters) const;
  // residual += norm(x), in float32; then out = next(residual).
  void add_to(Context& context, const Tensor& x, const Tensor& residual,
              const Gemma2FastRMSNorm& next, const Tensor& out,
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

// What all layers of one step share.
struct Gemma2Step {
  const RotaryEmbedding& rotary;
  Tensor position_ids;
  AttentionBatch attention;
  Tensor slots;          // [T] int64, or [C] with cache_indices
  Tensor cache_indices;  // [C] int32 or none
  const AdapterBatchData* adapters;
};

class FlashGemma2Attention {
 public:
  FlashGemma2Attention(const Gemma2Config& config, const Weights& weights, int64_t layer);

  // hidden [T, D] -> [T, D], model dtype. Writes this step's keys and values first.
  Tensor forward(Context& context, const Tensor& hidden, const PagedKv& kv,
                 const Gemma2Step& step) const;

 private:
  void write_cache(Context& context, const Tensor& key_value, const PagedKv& kv,
                   const Gemma2Step& step) const;

  int64_t num_heads_;
  int64_t num_key_value_heads_;
  int64_t head_dim_;
  AttentionOptions options_;
  TensorParallelMultiAdapterLinear query_key_value_;  // [(H + 2K) d, D]: q | k | v
  TensorParallelAdapterRowLinear o_proj_;             // [D, H d]
};

class Gemma2MLP {
 public:
  Gemma2MLP(const Gemma2Config& config, const Weights& weights);

  // hidden [T, D] -> [T, D], model dtype.
  Tensor forward(Context& context, const Tensor& hidden, const AdapterBatchData* adapters) const;

 private:
  TensorParallelMultiAdapterLinear gate_up_proj_;  // [2F, D]: gate | up
  TensorParallelAdapterRowLinear down_proj_;       // [D, F]
};

class FlashGemma2Layer {
 public:
  FlashGemma2Layer(const Gemma2Config& config, const Weights& weights, int64_t layer);

  // residual [T, D] float32 and hidden [T, D], both updated in place: hidden is the residual under
  // this layer's input_layernorm before, and under `next_layernorm` after.
  void forward(Context& context, const Tensor& residual, const Tensor& hidden,
               const Gemma2FastRMSNorm& next_layernorm, const PagedKv& kv,
               const Gemma2Step& step) const;

  const Gemma2FastRMSNorm& input_layernorm() const { return input_layernorm_; }

 private:
  FlashGemma2Attention self_attn_;
  Gemma2MLP mlp_;
  Gemma2FastRMSNorm input_layernorm_;
  Gemma2FastRMSNorm post_attention_layernorm_;
  Gemma2FastRMSNorm pre_feedforward_layernorm_;
  Gemma2FastRMSNorm post_feedforward_layernorm_;
};

class FlashGemma2Model {
 public:
  FlashGemma2Model(const Gemma2Config& config, const Weights& weights);

  // Embedded tokens [T, D] float32 (overwritten) -> normalised hidden states [T, D], model dtype.
  Tensor forward(Context& context, const Tensor& inputs_embeds, const ForwardBatch& batch) const;

  const MultiAdapterEmbedding& embed_tokens() const { return embed_tokens_; }

 private:
  DType dtype_;
  MultiAdapterEmbedding embed_tokens_;
  RotaryEmbedding rotary_emb_;
  std::vector<FlashGemma2Layer> layers_;
  Gemma2FastRMSNorm norm_;
};

class FlashGemma2ForCausalLM final : public FlashCausalLM {
 public:
  // `prefix`: what stands before "model." in the names; "" for a plain checkpoint.
  // Gemma 2 is always causal, so the reference's fourth argument must be true.
  FlashGemma2ForCausalLM(std::string_view prefix, const Gemma2Config& config, const Weights& root,
                         bool causal = true);

  ForwardOutput forward(Context& context, const ForwardBatch& batch) const override;
  ForwardOutput lm_head(Context& context, const Tensor& hidden,
                        const AdapterBatchData* adapters) const override;
  const KvShape& kv_shape() const override { return kv_shape_; }
  const std::vector<AdapterModule>& adapter_modules() const override { return modules_; }

 private:
  FlashGemma2ForCausalLM(const Gemma2Config& config, const Weights& weights);

  KvShape kv_shape_;
  float embed_scale_;  // sqrt(D) rounded to the model dtype
  FlashGemma2Model model_;
  MultiAdapterHead lm_head_;  // [V, D]: the embedding table itself if tied
  std::vector<AdapterModule> modules_;
};

}  // namespace lorax
