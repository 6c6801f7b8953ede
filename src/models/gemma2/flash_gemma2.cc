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

std::array<Weights::Part, 2> gate_up_parts(const Gemma2Config& config) {
  return {{{"gate_proj", config.intermediate_size}, {"up_proj", config.intermediate_size}}};
}

}  // namespace

float gemma2_embedding_scale(DType dtype, int64_t hidden_size) {
  return rounded_to(dtype, std::sqrt(static_cast<float>(hidden_size)));
}

Gemma2FastRMSNorm::Gemma2FastRMSNorm(const Weights& weights, std::string_view name, int64_t size,
                                     float eps)
    : weight_(weights.vector_float32(name, size, 1.0f)),
      module_(weights.store().add_module({.name = weights.full_name(name),
                                          .kind = AdapterModule::Kind::kNorm,
                                          .in = 0,
                                          .out = size,
                                          .weight = weight_})),
      eps_(eps) {}

template <typename Norm>
void Gemma2FastRMSNorm::for_each_weight(int64_t rows, const AdapterBatchData* adapters,
                                        const Norm& norm) const {
  if (!is_replaced(adapters)) return norm(0, rows, weight_);
  adapters->for_each_run([&](int64_t begin, int64_t end, const AdapterSlot* slot) {
    const Tensor* own = slot != nullptr ? slot->replacement(module_) : nullptr;
    norm(begin, end, own != nullptr ? *own : weight_);
  });
}

Tensor Gemma2FastRMSNorm::operator()(Context& context, const Tensor& x, DType out_dtype,
                                     const AdapterBatchData* adapters) const {
  const Tensor out = context.workspace.take(out_dtype, {x.dim(0), x.dim(1)});
  into(context, x, out, adapters);
  return out;
}

void Gemma2FastRMSNorm::into(Context& context, const Tensor& x, const Tensor& out,
                             const AdapterBatchData* adapters) const {
  for_each_weight(x.dim(0), adapters, [&](int64_t begin, int64_t end, const Tensor& weight) {
    ops::rms_norm_into(context, x.slice(0, begin, end), weight, eps_, out.slice(0, begin, end));
  });
}

void Gemma2FastRMSNorm::add_to(Context& context, const Tensor& x, const Tensor& residual,
                               const Gemma2FastRMSNorm& next, const Tensor& out,
                               const AdapterBatchData* adapters) const {
  if (!is_replaced(adapters) && !next.is_replaced(adapters)) {
    return ops::rms_norm_add_norm_into(context, x, weight_, eps_, residual, next.weight_, next.eps_,
                                       out);
  }
  for_each_weight(x.dim(0), adapters, [&](int64_t begin, int64_t end, const Tensor& weight) {
    ops::rms_norm_add(context, x.slice(0, begin, end), weight, eps_, residual.slice(0, begin, end));
  });
  next.into(context, residual, out, adapters);
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
  const Tensor key_value = qkv.slice(1, q_size, qkv.dim(1));                       // [T, 2 K d]
  const Tensor heads = key_value.split_last(2 * num_key_value_heads_, head_dim_);
  const Tensor key = heads.slice(1, 0, num_key_value_heads_);  // [T, K, d]
  const Tensor value = heads.slice(1, num_key_value_heads_, 2 * num_key_value_heads_);

  if (step.cache_indices.empty()) {
    step.rotary.store(context, query, key, value, step.position_ids, step.slots, kv);
  } else {
    step.rotary(context, query, step.position_ids);
    step.rotary(context, key, step.position_ids);
    write_cache(context, key_value, kv, step);
  }
  const Tensor attn_output = ops::attention(context, query, kv, step.attention, options_);
  return o_proj_(context, attn_output, step.adapters);
}

void FlashGemma2Attention::write_cache(Context& context, const Tensor& key_value, const PagedKv& kv,
                                       const Gemma2Step& step) const {
  Workspace::Scope scope(context.workspace);
  const Tensor rows = ops::gather_rows(context, key_value, step.cache_indices);
  const Tensor heads = rows.split_last(2 * num_key_value_heads_, head_dim_);
  ops::store_kv(context, heads.slice(1, 0, num_key_value_heads_),
                heads.slice(1, num_key_value_heads_, 2 * num_key_value_heads_), step.slots, kv);
}

Gemma2MLP::Gemma2MLP(const Gemma2Config& config, const Weights& weights)
    : gate_up_proj_(weights, gate_up_parts(config), config.hidden_size),
      down_proj_(weights, "down_proj", config.hidden_size, config.intermediate_size) {}

Tensor Gemma2MLP::forward(Context& context, const Tensor& hidden,
                          const AdapterBatchData* adapters) const {
  const Tensor product = gate_up_proj_.gelu_tanh_mul(context, hidden, adapters);  // [T, F]
  return down_proj_(context, product, adapters);
}

FlashGemma2Layer::FlashGemma2Layer(const Gemma2Config& config, const Weights& weights,
                                   int64_t layer)
    : self_attn_(config, weights["self_attn"], layer),
      mlp_(config, weights["mlp"]),
      input_layernorm_(weights, "input_layernorm", config.hidden_size, config.rms_norm_eps),
      post_attention_layernorm_(weights, "post_attention_layernorm", config.hidden_size,
                                config.rms_norm_eps),
      pre_feedforward_layernorm_(weights, "pre_feedforward_layernorm", config.hidden_size,
                                 config.rms_norm_eps),
      post_feedforward_layernorm_(weights, "post_feedforward_layernorm", config.hidden_size,
                                  config.rms_norm_eps) {}

void FlashGemma2Layer::forward(Context& context, const Tensor& residual, const Tensor& hidden,
                               const Gemma2FastRMSNorm& next_layernorm, const PagedKv& kv,
                               const Gemma2Step& step) const {
  Workspace::Scope scope(context.workspace);
  const Tensor attn_output = self_attn_.forward(context, hidden, kv, step);
  post_attention_layernorm_.add_to(context, attn_output, residual, pre_feedforward_layernorm_,
                                   hidden, step.adapters);

  const Tensor mlp_output = mlp_.forward(context, hidden, step.adapters);
  post_feedforward_layernorm_.add_to(context, mlp_output, residual, next_layernorm, hidden,
                                     step.adapters);
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
      .cache_indices = batch.prefill_cache_indices,
      .adapters = batch.adapter_data};
  if (!step.cache_indices.empty()) {
    const Tensor column = batch.slots.view({batch.slots.dim(0), 1});
    step.slots =
        ops::gather_rows(context, column, step.cache_indices).view({step.cache_indices.dim(0)});
  }
  const Tensor hidden =
      layers_.front().input_layernorm()(context, inputs_embeds, dtype_, batch.adapter_data);
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const bool is_last = layer + 1 == layers_.size();
    layers_[layer].forward(context, inputs_embeds, hidden,
                           is_last ? norm_ : layers_[layer + 1].input_layernorm(),
                           batch.kv_cache[layer], step);
  }
  return hidden;
}

FlashGemma2ForCausalLM::FlashGemma2ForCausalLM(std::string_view prefix, const Gemma2Config& config,
                                               const Weights& root, bool causal)
    : FlashGemma2ForCausalLM(config, prefix.empty() ? root : root[prefix]) {
  LORAX_CHECK(causal);
}

FlashGemma2ForCausalLM::FlashGemma2ForCausalLM(const Gemma2Config& config, const Weights& weights)
    : kv_shape_(config.kv_shape(weights.store().dtype())),
      embed_scale_(gemma2_embedding_scale(weights.store().dtype(), config.hidden_size)),
      model_(config, weights["model"]),
      lm_head_(weights, "lm_head", head_weight(config, weights, model_.embed_tokens().weight()),
               config.final_logit_softcapping),
      modules_(weights.store().modules()) {}

ForwardOutput FlashGemma2ForCausalLM::forward(Context& context, const ForwardBatch& batch) const {
  const Tensor inputs_embeds =
      model_.embed_tokens()(context, batch.input_ids, embed_scale_, batch.adapter_data);
  Tensor hidden_states = model_.forward(context, inputs_embeds, batch);
  if (!batch.lm_head_indices.empty()) {
    hidden_states = ops::gather_rows(context, hidden_states, batch.lm_head_indices);
  }
  if (batch.skip_lm_head) return {.logits = hidden_states, .speculative_logits = {}};
  return lm_head(context, hidden_states, batch.head_adapter_data);
}

ForwardOutput FlashGemma2ForCausalLM::lm_head(Context& context, const Tensor& hidden,
                                              const AdapterBatchData* adapters) const {
  const MultiAdapterHead::Output output = lm_head_(context, hidden, adapters);
  return {.logits = output.logits, .speculative_logits = output.speculative_logits};
}

}  // namespace lorax
