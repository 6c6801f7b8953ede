// Runs steps: turns sequences into the model's packed batch and gives back logits. Owns the
// workspace, the step's input buffers and the KV pages, all sized at start; a step allocates
// nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "device/workspace.h"
#include "engine/sequence.h"
#include "models/causal_lm.h"

namespace lorax {

// The largest step a runner must take.
struct RunnerLimits {
  int64_t max_tokens = 0;             // rows of one step, over all sequences
  int64_t max_sequences = 0;          // of one step
  int64_t max_length = 0;             // tokens of one sequence
  int64_t max_logits_rows = 1;        // rows of one call of logits()
  int64_t kv_blocks = 0;              // pages of the cache
  int64_t max_speculative_heads = 0;  // Medusa heads of an adapter; further ones are not computed
};

// What one sequence does in a step. Views of what the caller holds.
struct SequenceStep {
  enum class Output { kNone, kLastRow, kAllRows };

  std::span<const int32_t> tokens;  // ids of the new ones, at least one
  int64_t position = 0;             // of the first: so many are cached
  std::span<const int32_t> blocks;  // pages, in order, for all up to the last new token
  int32_t adapter = kNoAdapter;     // its adapter's slot
  Output output = Output::kLastRow;
};

// A step over the next `tokens` pending ones of a sequence.
SequenceStep next_step(const Sequence& sequence, int64_t tokens,
                       SequenceStep::Output output = SequenceStep::Output::kLastRow);

class ModelRunner {
 public:
  // device, model and the tables (null: no sequence has an adapter) must outlive the runner.
  // Throws Error if memory is short.
  ModelRunner(Device& device, const FlashCausalLM& model, const RunnerLimits& limits,
              const AdapterTables* adapters = nullptr);

  // One forward over all `steps`. Returns the number of output rows: those of the first sequence,
  // then of the second, and so on.
  int64_t step(std::span<const SequenceStep> steps);

  // Logits of output rows [first, first + count) of the last step, [count, V] float32 on the host;
  // valid until the next call of this or speculative_logits(). count <= max_logits_rows.
  std::span<const float> logits(int64_t first, int64_t count);

  // Of the last call of logits(): how many Medusa heads the adapters of its rows have at most, and
  // the logits of one head, [count, V]. Rows whose adapter lacks that head hold nothing of meaning.
  int64_t speculative_heads() const;
  std::span<const float> speculative_logits(int64_t head);

  const RunnerLimits& limits() const { return limits_; }
  int64_t vocab_size() const { return vocab_size_; }
  size_t workspace_bytes() const { return workspace_bytes_; }
  size_t kv_bytes() const {
    return static_cast<size_t>(cache_.blocks() * KvCache::kBlockSize) *
           model_.kv_shape().bytes_per_token();
  }

 private:
  // The step's inputs in host memory, filled anew in every step, and their device twins.
  struct Inputs {
    std::vector<int32_t> ids, positions, cu_seqlens, kv_lengths, block_tables, head_rows;
    std::vector<int64_t> slots;
  };

  // Adapters of some rows, on the host and as the model takes them.
  struct RowAdapters {
    AdapterBatchMetadata metadata;
    std::optional<AdapterBatchData> data;
  };

  size_t measure_workspace();
  void fill_inputs(std::span<const SequenceStep> steps);
  void fill_sequence(const SequenceStep& step);
  ForwardBatch upload_inputs(int64_t sequences);
  // Groups and uploads; null if no row has an adapter.
  const AdapterBatchData* upload_adapters(RowAdapters& adapters);
  template <typename T>
  Tensor upload(const std::vector<T>& host, std::initializer_list<int64_t> shape);

  Device& device_;
  const FlashCausalLM& model_;
  const AdapterTables* tables_;
  RunnerLimits limits_;
  int64_t blocks_per_sequence_;
  int64_t vocab_size_ = 0;
  size_t workspace_bytes_;
  Workspace workspace_;
  KvCache cache_;
  Inputs inputs_;
  RowAdapters step_adapters_;
  RowAdapters head_adapters_;               // of the rows of the last logits()
  std::vector<int32_t> head_row_adapters_;  // of each output row of the last step
  std::optional<Workspace::Scope> step_scope_;
  std::optional<Workspace::Scope> head_scope_;
  Tensor hidden_;       // [rows, D] of the last step
  Tensor speculative_;  // [rows, heads, V] of the last logits()
  std::vector<float> host_logits_;
};

}  // namespace lorax
