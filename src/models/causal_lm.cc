#include "models/causal_lm.h"

#include <utility>

namespace lorax {
namespace {

// `slots` with -1 for all rows but those of `indices`. By way of the host.
Tensor only_slots(Context& context, const Tensor& slots, const Tensor& indices) {
  std::vector<int64_t> all(static_cast<size_t>(slots.numel()));
  std::vector<int32_t> rows(static_cast<size_t>(indices.numel()));
  context.device.copy_to_host(all.data(), slots.data, slots.bytes());
  context.device.copy_to_host(rows.data(), indices.data, indices.bytes());
  std::vector<int64_t> kept(all.size(), -1);
  for (const int32_t row : rows) kept.at(static_cast<size_t>(row)) = all[static_cast<size_t>(row)];
  const Tensor out = context.workspace.take(DType::kInt64, {slots.numel()});
  context.device.copy_from_host(out.data, kept.data(), out.bytes());
  context.device.synchronize();  // it may still read `kept`
  return out;
}

}  // namespace

HeadOutput FlashCausalLM::forward(Context& context, const Tensor& input_ids,
                                  const Tensor& position_ids, const Tensor& cu_seqlen_prefill,
                                  std::span<const PagedKv> kv_cache, const Tensor& block_tables,
                                  const Tensor& slots, const Seqlen& seqlen, int max_s,
                                  const AdapterBatchData* adapter_data,
                                  const Tensor& prefill_cache_indices,
                                  const Tensor& lm_head_indices, bool skip_lm_head,
                                  const AdapterBatchData* head_adapter_data) const {
  ForwardBatch batch;
  batch.input_ids = input_ids;
  batch.position_ids = position_ids;
  batch.slots =
      prefill_cache_indices.empty() ? slots : only_slots(context, slots, prefill_cache_indices);
  batch.attention = {
      .cu_seqlens_q = cu_seqlen_prefill.empty() ? seqlen.cu_seqlen_q : cu_seqlen_prefill,
      .kv_lengths = seqlen.kv_lengths,
      .block_tables = block_tables,
      .max_q = seqlen.max_q,
      .max_kv = max_s};
  batch.kv_cache = kv_cache;
  batch.output_rows = lm_head_indices;
  batch.adapters = adapter_data;
  const Tensor hidden = forward(context, batch);
  if (skip_lm_head) return {.logits = hidden, .speculative_logits = {}};
  return head(context, hidden, lm_head_indices.empty() ? adapter_data : head_adapter_data);
}

}  // namespace lorax
