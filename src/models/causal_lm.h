// The contract of every model that this program serves (LoRAX's FlashCausalLM): one forward over a
// packed batch of token rows of any mix of prefill chunks and decode steps.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nn/adapter_batch.h"
#include "nn/kv_cache.h"
#include "nn/weights.h"
#include "ops/ops.h"

namespace lorax {

// Lengths of the sequences of a step, on the device and on the host.
struct Seqlen {
  Tensor cu_seqlen_q;  // [B+1] int32: prefix sums of the rows of each sequence in this step
  Tensor kv_lengths;   // [B] int32: cache_lengths + input_lengths
  int max_q = 0;       // largest input length
};

// The arguments of the reference's forward, by name and in order. "None" is a tensor of rank 0.
struct ForwardBatch {
  Tensor input_ids;                   // [T] int32
  Tensor position_ids;                // [T] int32, absolute
  Tensor cu_seqlen_prefill;           // [B+1] int32, or none in a pure decode step
  std::span<const PagedKv> kv_cache;  // one per layer
  Tensor block_tables;                // [B, max_blocks] int32
  Tensor slots;                       // [T] int64; -1: nowhere
  Seqlen seqlen;
  int max_s = 0;                                   // longest sequence: cached tokens + this step's
  const AdapterBatchData* adapter_data = nullptr;  // of the T rows; null: none has an adapter
  Tensor prefill_cache_indices;  // [C] int32, or none: all. Rows written to the cache
  Tensor lm_head_indices;        // [N] int32, or none: all. Rows taken to the head
  const AdapterBatchData* head_adapter_data = nullptr;  // of the rows taken to the head
  bool skip_lm_head = false;                            // return hidden states, not logits
};

struct ForwardOutput {
  // [N, V] float32; with skip_lm_head the normalised hidden states [N, D] in the model dtype.
  // Lives in the caller's workspace scope.
  Tensor logits;
  // [N, heads, V] float32 with the most Medusa heads of an adapter of the batch, strided; none
  // without Medusa heads. What a row's adapter has no head for is not written.
  Tensor speculative_logits;
};

class FlashCausalLM {
 public:
  virtual ~FlashCausalLM() = default;

  // All kernels run on context.device, all intermediates live in context.workspace.
  virtual ForwardOutput forward(Context& context, const ForwardBatch& batch) const = 0;
  // The head alone: hidden [N, D] from a forward with skip_lm_head. `adapters` describes its rows,
  // or is null.
  virtual ForwardOutput lm_head(Context& context, const Tensor& hidden,
                                const AdapterBatchData* adapters) const = 0;

  virtual const KvShape& kv_shape() const = 0;
  // What adapters may change; indices are those of AdapterTables.
  virtual const std::vector<AdapterModule>& adapter_modules() const = 0;
};

}  // namespace lorax
