#include "nn/adapter_embedding.h"

namespace lorax {

MultiAdapterEmbedding::MultiAdapterEmbedding(const Weights& weights, std::string_view name,
                                             int64_t vocab_size, int64_t hidden_size)
    : weight_(weights.matrix(name, vocab_size, hidden_size)),
      module_(weights.store().add_module({.name = weights.full_name(name),
                                          .kind = AdapterModule::Kind::kEmbedding,
                                          .in = vocab_size,
                                          .out = hidden_size,
                                          .weight = weight_})) {}

Tensor MultiAdapterEmbedding::operator()(Context& context, const Tensor& ids, float scale,
                                         const AdapterBatchData* adapters) const {
  const Tensor out = context.workspace.take(DType::kFloat32, {ids.dim(0), weight_.dim(1)});
  ops::embedding_into(context, ids, weight_, scale, out);
  if (adapters == nullptr) return out;
  if (adapters->has_replacement(module_)) {
    adapters->for_each_run([&](int64_t begin, int64_t end, const AdapterSlot* slot) {
      const Tensor* own = slot != nullptr ? slot->replacement(module_) : nullptr;
      if (own == nullptr) return;
      ops::embedding_into(context, ids.slice(0, begin, end), *own, scale, out.slice(0, begin, end));
    });
  }
  if (adapters->has_tokens(module_)) {
    adapters->for_each_run([&](int64_t begin, int64_t end, const AdapterSlot* slot) {
      const TokenRows* own = slot != nullptr ? slot->tokens_of(module_) : nullptr;
      if (own == nullptr) return;
      ops::token_embedding_into(context, ids.slice(0, begin, end), own->tokens, own->rows, scale,
                                out.slice(0, begin, end));
    });
  }
  if (adapters->has_lora(module_)) {
    ops::lora_embedding(context, ids, scale, module_, adapters->rows(), out);
  }
  return out;
}

}  // namespace lorax
