#include "models/gemma2/flash_gemma2.h"

#include <array>
#include <cmath>

#include "base/error.h"

namespace lorax {
namespace {

// Hugging Face keeps the normaliser in the model dtype: 59.75, not 59.867, for the 9b in bfloat16.
float rounded_to(DType dtype, float value) {
  switch (dtype) {
    case DType::kBFloat16:
      return static_cast<float>(BFloat16(value));
    case DType::kFloat16:
      return static_cast<float>(Float16(value));
    default:
      return value;
  }
}

// A tied checkpoint may still carry a copy of the head. A head that differs would be dropped in
// silence by tying, so it is refused.
void check_tied_head(const Weights& weights, const Gemma2Config& config) {
  const TensorSource& source = weights.store().source();
  const std::string head = weights.full_name("lm_head.weight");
  const std::string table = weights.full_name("model.embed_tokens.weight");
  if (!source.contains(head)) return;
  source.check(head, std::array{config.vocab_size, config.hidden_size});
  std::vector<float> a(static_cast<size_t>(config.hidden_size));
  std::vector<float> b(a.size());
  for (int64_t row = 0; row < config.vocab_size; ++row) {
    source.read(head, row * config.hidden_size, config.hidden_size, DType::kFloat32, a.data());
    source.read(table, row * config.hidden_size, config.hidden_size, DType::kFloat32, b.data());
    if (a != b) {
      fail(
          "{}: tensor {} differs from model.embed_tokens.weight but config.json ties them; set "
          "tie_word_embeddings to false to use it, or remove it",
          source.describe(), head);
    }
  }
  weights.store().mark_used(head);
}

Tensor head_weight(const Gemma2Config& config, const Weights& weights, const Tensor& embed_tokens) {
  if (!config.tie_word_embeddings) {
    return weights.matrix("lm_head", config.vocab_size, config.hidden_size);
  }
  check_tied_head(weights, config);
  return embed_tokens;
}

// The modules that one product computes.
std::array<Weights::Part, 3> query_key_value_parts(const Gemma2Config& config) {
  const int64_t kv_size = config.num_key_value_heads * config.head_dim;
  return {{{"q_proj", config.num_attention_heads * config.head_dim},
           {"k_proj", kv_size},
           {"v_proj", kv_size}}};
}

}  // namespace

float gemma2_embedding_scale(DType dtype, int64_t hidden_size) {
  return rounded_to(dtype, std::sqrt(static_cast<float>(hidden_size)));
}

FlashGemma2Attention::FlashGemma2Attention(const Gemma2Config& config, const Weights& weights,
                                           int64_t layer)
    : num_heads_(config.num_attention_heads),
      num_key_value_heads_(config.num_key_value_heads),
      head_dim_(config.head_dim),
      query_key_value_(weights, query_key_value_parts(config), config.hidden_size),
      o_proj_(weights, "o_proj", config.hidden_size, num_heads_ * head_dim_) {
  options_.scale = 1.0f / std::sqrt(config.query_pre_attn_scalar);
  options_.softcap = config.attn_logit_softcapping;
  options_.window = config.layer_is_sliding[static_cast<size_t>(layer)]
                        ? static_cast<int>(config.sliding_window)
                        : 0;
}

Tensor FlashGemma2Attention::forward(Context& context, const Tensor& hidden, const PagedKv& kv,
                                     const Gemma2Step& step) const {
  const int64_t q_size = num_heads_ * head_dim_;
  const Tensor qkv = query_key_value_(context, hidden, step.adapters);
  const Tensor query = qkv.slice(1, 0, q_size).split_last(num_heads_, head_dim_);  // [T, H, d]
  const Tensor heads =
      qkv.slice(1, q_size, qkv.dim(1)).split_last(2 * num_key_value_heads_, head_dim_);
  const Tensor key = heads.slice(1, 0, num_key_value_heads_);  // [T, K, d]
  const Tensor value = heads.slice(1, num_key_value_heads_, 2 * num_key_value_heads_);

  step.rotary.store(context, query, key, value, step.position_ids, step.slots, kv);
  const Tensor attn_output = ops::attention(context, query, kv, step.attention, options_);
  return o_proj_(context, attn_output, step.adapters);
}

FlashGemma2Layer::FlashGemma2Layer(const Gemma2Config& config, const Weights& weights,
                                   int64_t layer)
    : self_attn_(config, weights["self_attn"], layer),
      mlp_(weights["mlp"], config.hidden_size, config.intermediate_size),
      input_layernorm_(weights, "input_layernorm", config.hidden_size, config.rms_norm_eps),
      post_attention_layernorm_(weights, "post_attention_layernorm", config.hidden_size,
                                config.rms_norm_eps),
      pre_feedforward_layernorm_(weights, "pre_feedforward_layernorm", config.hidden_size,
                                 config.rms_norm_eps),
      post_feedforward_layernorm_(weights, "post_feedforward_layernorm", config.hidden_size,
                                  config.rms_norm_eps) {}

Pending FlashGemma2Layer::forward(Context& context, const Tensor& residual, const Pending& before,
                                  const PagedKv& kv, const Gemma2Step& step) const {
  Workspace::Scope scope(context.workspace);
  const Tensor& hidden = step.normalised;
  input_layernorm_.after(context, before, residual, hidden, step.adapters);
  const Tensor attn_output = self_attn_.forward(context, hidden, kv, step);
  const Pending attended = {attn_output, &post_attention_layernorm_};

  pre_feedforward_layernorm_.after(context, attended, residual, hidden, step.adapters);
  mlp_.forward(context, hidden, step.sublayer_output, step.adapters);
  return {step.sublayer_output, &post_feedforward_layernorm_};
}

FlashGemma2Model::FlashGemma2Model(const Gemma2Config& config, const Weights& weights)
    : dtype_(weights.store().dtype()),
      embed_tokens_(weights, "embed_tokens", config.vocab_size, config.hidden_size),
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
  const auto take = [&] {
    return context.workspace.take(dtype_, {inputs_embeds.dim(0), inputs_embeds.dim(1)});
  };
  const Gemma2Step step{.rotary = rotary_emb_,
                        .position_ids = batch.position_ids,
                        .attention = batch.attention,
                        .slots = batch.slots,
                        .adapters = batch.adapters,
                        .normalised = take(),
                        .sublayer_output = take()};
  Pending pending;
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    pending = layers_[layer].forward(context, inputs_embeds, pending, batch.kv_cache[layer], step);
  }
  norm_.after(context, pending, inputs_embeds, step.normalised, batch.adapters);
  return step.normalised;
}

FlashGemma2ForCausalLM::FlashGemma2ForCausalLM(std::string_view prefix, const Gemma2Config& config,
                                               const Weights& root)
    : FlashGemma2ForCausalLM(config, prefix.empty() ? root : root[prefix]) {}

FlashGemma2ForCausalLM::FlashGemma2ForCausalLM(const Gemma2Config& config, const Weights& weights)
    : kv_shape_(config.kv_shape(weights.store().dtype())),
      embed_scale_(gemma2_embedding_scale(weights.store().dtype(), config.hidden_size)),
      model_(config, weights["model"]),
      lm_head_(weights, "lm_head", head_weight(config, weights, model_.embed_tokens().weight()),
               config.final_logit_softcapping),
      modules_(weights.store().modules()) {}

Tensor FlashGemma2ForCausalLM::forward(Context& context, const ForwardBatch& batch) const {
  const Tensor inputs_embeds =
      model_.embed_tokens()(context, batch.input_ids, embed_scale_, batch.adapters);
  const Tensor hidden_states = model_.forward(context, inputs_embeds, batch);
  if (batch.output_rows.empty()) return hidden_states;
  return ops::gather_rows(context, hidden_states, batch.output_rows);
}

HeadOutput FlashGemma2ForCausalLM::head(Context& context, const Tensor& hidden,
                                        const AdapterBatchData* adapters) const {
  return lm_head_(context, hidden, adapters);
}

}  // namespace lorax
