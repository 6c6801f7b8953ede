#include "models/gemma2/flash_gemma2.h"

#include <array>
#include <cmath>

#include "base/error.h"

namespace lorax {
namespace {

// Hugging Face keeps the normaliser in the model dtype: 59.75, not 59.867, for the 9b in bfloat16.
float rounded_to(DType dtype, float value) {
  return dtype == DType::kBFloat16 ? static_cast<float>(BFloat16(value)) : value;
}

// A tied checkpoint may still carry a copy of the head. A head that differs would be dropped in
// silence by tying, so it is refused.
void check_tied_head(const Weights& root, const Gemma2Config& config) {
  const TensorSource& source = root.store().source();
  const std::string head = "lm_head.weight";
  if (!source.contains(head)) return;
  source.check(head, std::array{config.vocab_size, config.hidden_size});
  std::vector<float> a(static_cast<size_t>(config.hidden_size));
  std::vector<float> b(a.size());
  for (int64_t row = 0; row < config.vocab_size; ++row) {
    source.read(head, row * config.hidden_size, config.hidden_size, DType::kFloat32, a.data());
    source.read("model.embed_tokens.weight", row * config.hidden_size, config.hidden_size,
                DType::kFloat32, b.data());
    if (a != b) {
      fail(
          "{}: tensor {} differs from model.embed_tokens.weight but config.json ties them; set "
          "tie_word_embeddings to false to use it, or remove it",
          source.describe(), head);
    }
  }
  root.store().mark_used(head);
}

}  // namespace

Gemma2FastRMSNorm::Gemma2FastRMSNorm(const Weights& weights, std::string_view name, int64_t size,
                                     float eps)
    : weight_(weights.vector_float32(name, size, 1.0f)), eps_(eps) {}

Tensor Gemma2FastRMSNorm::operator()(Context& context, const Tensor& x, DType out_dtype) const {
  return ops::rms_norm(context, x, weight_, eps_, out_dtype);
}

void Gemma2FastRMSNorm::add_to(Context& context, const Tensor& x, const Tensor& residual) const {
  ops::rms_norm_add(context, x, weight_, eps_, residual);
}

FlashGemma2Attention::FlashGemma2Attention(const Gemma2Config& config, const Weights& weights,
                                           int64_t layer)
    : num_heads_(config.num_attention_heads),
      num_key_value_heads_(config.num_key_value_heads),
      head_dim_(config.head_dim) {
  options_.scale = 1.0f / std::sqrt(config.query_pre_attn_scalar);
  options_.softcap = config.attn_logit_softcapping;
  options_.window = config.layer_is_sliding[static_cast<size_t>(layer)]
                        ? static_cast<int>(config.sliding_window)
                        : 0;
  const Weights::Part parts[] = {{"q_proj", num_heads_ * head_dim_},
                                 {"k_proj", num_key_value_heads_ * head_dim_},
                                 {"v_proj", num_key_value_heads_ * head_dim_}};
  query_key_value_ = weights.stacked(parts, config.hidden_size);
  o_proj_ = weights.matrix("o_proj", config.hidden_size, num_heads_ * head_dim_);
}

Tensor FlashGemma2Attention::forward(Context& context, const Tensor& hidden, const PagedKv& kv,
                                     const Gemma2Step& step) const {
  const int64_t q_size = num_heads_ * head_dim_;
  const Tensor qkv = ops::linear(context, hidden, query_key_value_, hidden.dtype);
  const Tensor query = qkv.slice(1, 0, q_size).split_last(num_heads_, head_dim_);  // [T, H, d]
  const Tensor key_value = qkv.slice(1, q_size, qkv.dim(1));                       // [T, 2 K d]
  const Tensor key = key_value.slice(1, 0, num_key_value_heads_ * head_dim_)
                         .split_last(num_key_value_heads_, head_dim_);  // [T, K, d]

  step.rotary(context, query, step.position_ids);
  step.rotary(context, key, step.position_ids);
  write_cache(context, key_value, kv, step);

  const Tensor attn_output = ops::attention(context, query, kv, step.attention, options_);
  return ops::linear(context, attn_output, o_proj_, hidden.dtype);
}

void FlashGemma2Attention::write_cache(Context& context, const Tensor& key_value, const PagedKv& kv,
                                       const Gemma2Step& step) const {
  Workspace::Scope scope(context.workspace);
  const Tensor rows = step.cache_indices.empty()
                          ? key_value
                          : ops::gather_rows(context, key_value, step.cache_indices);
  const Tensor heads = rows.split_last(2 * num_key_value_heads_, head_dim_);
  ops::store_kv(context, heads.slice(1, 0, num_key_value_heads_),
                heads.slice(1, num_key_value_heads_, 2 * num_key_value_heads_), step.slots, kv);
}

Gemma2MLP::Gemma2MLP(const Gemma2Config& config, const Weights& weights) {
  const Weights::Part parts[] = {{"gate_proj", config.intermediate_size},
                                 {"up_proj", config.intermediate_size}};
  gate_up_proj_ = weights.stacked(parts, config.hidden_size);
  down_proj_ = weights.matrix("down_proj", config.hidden_size, config.intermediate_size);
}

Tensor Gemma2MLP::forward(Context& context, const Tensor& hidden) const {
  const Tensor gate_up = ops::linear(context, hidden, gate_up_proj_, hidden.dtype);  // [T, 2F]
  const Tensor product = ops::gelu_tanh_mul(context, gate_up);                       // [T, F]
  return ops::linear(context, product, down_proj_, hidden.dtype);
}

FlashGemma2Layer::FlashGemma2Layer(const Gemma2Config& config, const Weights& weights,
                                   int64_t layer)
    : dtype_(weights.store().dtype()),
      self_attn_(config, weights["self_attn"], layer),
      mlp_(config, weights["mlp"]),
      input_layernorm_(weights, "input_layernorm", config.hidden_size, config.rms_norm_eps),
      post_attention_layernorm_(weights, "post_attention_layernorm", config.hidden_size,
                                config.rms_norm_eps),
      pre_feedforward_layernorm_(weights, "pre_feedforward_layernorm", config.hidden_size,
                                 config.rms_norm_eps),
      post_feedforward_layernorm_(weights, "post_feedforward_layernorm", config.hidden_size,
                                  config.rms_norm_eps) {}

void FlashGemma2Layer::forward(Context& context, const Tensor& residual, const PagedKv& kv,
                               const Gemma2Step& step) const {
  Workspace::Scope scope(context.workspace);
  const Tensor normed_hidden = input_layernorm_(context, residual, dtype_);
  const Tensor attn_output = self_attn_.forward(context, normed_hidden, kv, step);
  post_attention_layernorm_.add_to(context, attn_output, residual);

  const Tensor normed_attn = pre_feedforward_layernorm_(context, residual, dtype_);
  const Tensor mlp_output = mlp_.forward(context, normed_attn);
  post_feedforward_layernorm_.add_to(context, mlp_output, residual);
}

FlashGemma2Model::FlashGemma2Model(const Gemma2Config& config, const Weights& weights)
    : dtype_(weights.store().dtype()),
      embed_tokens_(weights.matrix("embed_tokens", config.vocab_size, config.hidden_size)),
      rotary_emb_(weights.store(), config.head_dim, config.rope_theta,
                  config.max_position_embeddings),
      norm_(weights, "norm", config.hidden_size, config.rms_norm_eps) {
  layers_.reserve(static_cast<size_t>(config.num_hidden_layers));
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    layers_.emplace_back(config, weights[fmt::format("layers.{}", layer)], layer);
  }
}

Tensor FlashGemma2Model::forward(Context& context, const Tensor& inputs_embeds,
                                 const ForwardBatch& batch) const {
  Gemma2Step step{
      .rotary = rotary_emb_,
      .position_ids = batch.position_ids,
      .attention = {.cu_seqlens_q = batch.cu_seqlen_prefill.empty() ? batch.seqlen.cu_seqlen_q
                                                                    : batch.cu_seqlen_prefill,
                    .kv_lengths = batch.seqlen.kv_lengths,
                    .block_tables = batch.block_tables,
                    .max_q = batch.seqlen.max_q,
                    .max_kv = batch.max_s},
      .slots = batch.slots,
      .cache_indices = batch.prefill_cache_indices};
  if (!step.cache_indices.empty()) {
    const Tensor column = batch.slots.view({batch.slots.dim(0), 1});
    step.slots =
        ops::gather_rows(context, column, step.cache_indices).view({step.cache_indices.dim(0)});
  }
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    layers_[layer].forward(context, inputs_embeds, batch.kv_cache[layer], step);
  }
  return norm_(context, inputs_embeds, dtype_);
}

FlashGemma2ForCausalLM::FlashGemma2ForCausalLM(std::string_view prefix, const Gemma2Config& config,
                                               const Weights& weights, bool causal)
    : kv_shape_(config.kv_shape(weights.store().dtype())),
      final_logit_softcapping_(config.final_logit_softcapping),
      embed_scale_(
          rounded_to(weights.store().dtype(), std::sqrt(static_cast<float>(config.hidden_size)))),
      model_(config, prefix.empty() ? weights["model"] : weights[prefix]["model"]) {
  LORAX_CHECK(causal);
  if (config.tie_word_embeddings) {
    check_tied_head(weights, config);
    lm_head_ = model_.embed_tokens();
  } else {
    lm_head_ = (prefix.empty() ? weights : weights[prefix])
                   .matrix("lm_head", config.vocab_size, config.hidden_size);
  }
}

ForwardOutput FlashGemma2ForCausalLM::forward(Context& context, const ForwardBatch& batch) const {
  const Tensor inputs_embeds =
      ops::embedding(context, batch.input_ids, model_.embed_tokens(), embed_scale_);
  Tensor hidden_states = model_.forward(context, inputs_embeds, batch);
  if (!batch.lm_head_indices.empty()) {
    hidden_states = ops::gather_rows(context, hidden_states, batch.lm_head_indices);
  }
  if (batch.skip_lm_head) return {.logits = hidden_states, .speculative_logits = {}};
  return {.logits = lm_head(context, hidden_states), .speculative_logits = {}};
}

Tensor FlashGemma2ForCausalLM::lm_head(Context& context, const Tensor& hidden) const {
  const Tensor logits = ops::linear(context, hidden, lm_head_, DType::kFloat32);
  ops::softcap(context, logits, final_logit_softcapping_);
  return logits;
}

}  // namespace lorax
