// Gemma 2, in the classes and the order of statements of LoRAX's flash_gemma2_modeling.py, exact to
// Hugging Face's Gemma2ForCausalLM (docs/NUMERICS.md lists every rounding point).
//
// What is Gemma 2's own: four norms a layer, two of them of what a sublayer gives; 1 + w in norms;
// the soft-caps of scores and logits; a window in every other layer; the scale of scores from
// query_pre_attn_scalar; the embedding's normaliser, rounded to the model dtype; a tied head.
//
// The residual stream is float32 in all model dtypes; what flows between two products is of the
// model dtype. Constructors take the scope of their weights and mirror the tree of names.
#pragma once

#include <vector>

#include "models/causal_lm.h"
#include "models/gemma2/config.h"
#include "nn/adapter_embedding.h"
#include "nn/adapter_linear.h"
#include "nn/gated_mlp.h"
#include "nn/rms_norm.h"
#include "nn/rotary.h"

namespace lorax {

// What embeddings are multiplied with: sqrt(hidden_size), rounded to the model's dtype as Hugging
// Face's `normalizer` is.
float gemma2_embedding_scale(DType dtype, int64_t hidden_size);

class Gemma2FastRMSNorm : public RmsNorm {
 public:
  // Folds Gemma's 1 + w into the weight, in float32.
  Gemma2FastRMSNorm(const Weights& weights, std::string_view name, int64_t size, float eps)
      : RmsNorm(weights, name, size, eps, 1.0f) {}
};

using Gemma2MLP = GatedMlp;

// What all layers of one step share.
struct Gemma2Step {
  const RotaryEmbedding& rotary;
  Tensor position_ids;
  AttentionBatch attention;
  Tensor slots;  // [T] int64
  const AdapterBatchData* adapters;
  // Room that each layer uses anew, [T, D], model dtype: for what a norm gives, and for what the
  // layer leaves pending.
  Tensor normalised, sublayer_output;
};

class FlashGemma2Attention {
 public:
  FlashGemma2Attention(const Gemma2Config& config, const Weights& weights, int64_t layer);

  // hidden [T, D] -> [T, D], model dtype. Writes this step's keys and values first.
  Tensor forward(Context& context, const Tensor& hidden, const PagedKv& kv,
                 const Gemma2Step& step) const;

 private:
  int64_t num_heads_;
  int64_t num_key_value_heads_;
  int64_t head_dim_;
  AttentionOptions options_;
  TensorParallelMultiAdapterLinear query_key_value_;  // [(H + 2K) d, D]: q | k | v
  TensorParallelAdapterRowLinear o_proj_;             // [D, H d]
};

class FlashGemma2Layer {
 public:
  FlashGemma2Layer(const Gemma2Config& config, const Weights& weights, int64_t layer);

  // residual [T, D] float32, updated in place, first by what the layer before left pending. What
  // this one leaves lies in step.sublayer_output.
  Pending forward(Context& context, const Tensor& residual, const Pending& before,
                  const PagedKv& kv, const Gemma2Step& step) const;

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
  // `prefix`: what stands before "model." in the names; "" for a plain checkpoint. The reference's
  // fourth argument, causal, is true of Gemma 2 always.
  FlashGemma2ForCausalLM(std::string_view prefix, const Gemma2Config& config, const Weights& root);

  using FlashCausalLM::forward;  // the reference's
  Tensor forward(Context& context, const ForwardBatch& batch) const override;
  HeadOutput head(Context& context, const Tensor& hidden,
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
