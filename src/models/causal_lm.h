// The contract of every model that this program serves: over a packed batch of token rows, of any
// mix of prefill chunks and decode steps, forward() gives hidden states and head() their logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "nn/adapter_batch.h"
#include "nn/adapter_linear.h"
#include "nn/kv_cache.h"
#include "ops/ops.h"

namespace lorax {

// T rows of B sequences, those of a sequence one behind the other. "None" is a tensor of rank 0.
struct ForwardBatch {
  Tensor input_ids;     // [T] int32
  Tensor position_ids;  // [T] int32, absolute
  Tensor slots;         // [T] int64: where each row's key and value go; -1: nowhere
  AttentionBatch attention;
  std::span<const PagedKv> kv_cache;           // one per layer
  Tensor output_rows;                          // [N] int32: the rows that come out; none: all
  const AdapterBatchData* adapters = nullptr;  // of the T rows; null: none has an adapter
};

// Lengths of the sequences of a step, as the reference has them.
struct Seqlen {
  Tensor cu_seqlen_q;  // [B+1] int32: prefix sums of the rows of each sequence in this step
  Tensor kv_lengths;   // [B] int32: cache_lengths + input_lengths
  int max_q = 0;       // largest input length
};

class FlashCausalLM {
 public:
  virtual ~FlashCausalLM() = default;

  // Normalised hidden states [N, D] of the output rows, model dtype. All kernels run on
  // context.device; what comes back lives in the caller's workspace scope.
  virtual Tensor forward(Context& context, const ForwardBatch& batch) const = 0;
  // hidden [N, D] from a forward. `adapters` describes its rows, or is null.
  virtual HeadOutput head(Context& context, const Tensor& hidden,
                          const AdapterBatchData* adapters) const = 0;

  // The reference's forward (LoRAX's FlashCausalLM), with its arguments by name and in order, on
  // top of the two above: for embedders, and for the tests that hold the contract.
  HeadOutput forward(
      Context& context, const Tensor& input_ids, const Tensor& position_ids,
      const Tensor& cu_seqlen_prefill,  // [B+1] int32, or none in a pure decode step
      std::span<const PagedKv> kv_cache,
      const Tensor& block_tables,  // [B, max_blocks] int32
      const Tensor& slots, const Seqlen& seqlen,
      int max_s,  // longest sequence: cached tokens and this step's
      const AdapterBatchData* adapter_data,
      const Tensor& prefill_cache_indices = {},  // [C] int32: rows written to the cache; none: all
      const Tensor& lm_head_indices = {},        // [N] int32: rows taken to the head; none: all
      bool skip_lm_head = false,  // then `logits` are the normalised hidden states [N, D]
      // Of the rows taken to the head, where lm_head_indices picks them.
      const AdapterBatchData* head_adapter_data = nullptr) const;

  virtual const KvShape& kv_shape() const = 0;
  // What adapters may change; indices are those of AdapterTables.
  virtual const std::vector<AdapterModule>& adapter_modules() const = 0;
};

}  // namespace lorax
