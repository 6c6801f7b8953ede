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
  int64_t max_tokens = 0;       // rows of one step, over all sequences
  int64_t max_sequences = 0;    // of one step
  int64_t max_length = 0;       // tokens of one sequence
  int64_t max_logits_rows = 1;  // rows of one call of logits()
  int64_t kv_blocks = 0;        // pages of the cache
};

// What one sequence does in a step.
struct SequenceStep {
  enum class Output { kNone, kLastRow, kAllRows };

  const Sequence* sequence = nullptr;
  int64_t tokens = 0;  // the next `tokens` pending ones, at least 1
  Output output = Output::kLastRow;
};

class ModelRunner {
 public:
  // device and model must outlive the runner. Throws Error if memory is short.
  ModelRunner(Device& device, const FlashCausalLM& model, const RunnerLimits& limits);

  // One forward over all `steps`. Returns the number of output rows: those of the first sequence,
  // then of the second, and so on. The caller advances Sequence::cached.
  int64_t step(std::span<const SequenceStep> steps);

  // Logits of output rows [first, first + count) of the last step, [count, V] float32 on the host;
  // valid until the next call. count <= max_logits_rows.
  std::span<const float> logits(int64_t first, int64_t count);

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

  size_t measure_workspace();
  void fill_inputs(std::span<const SequenceStep> steps);
  void fill_sequence(const SequenceStep& step);
  ForwardBatch upload_inputs(int64_t sequences);
  template <typename T>
  Tensor upload(const std::vector<T>& host, std::initializer_list<int64_t> shape);

  Device& device_;
  const FlashCausalLM& model_;
  RunnerLimits limits_;
  int64_t blocks_per_sequence_;
  int64_t vocab_size_ = 0;
  size_t workspace_bytes_;
  Workspace workspace_;
  KvCache cache_;
  Inputs inputs_;
  std::optional<Workspace::Scope> step_scope_;
  Tensor hidden_;  // [rows, D] of the last step
  std::vector<float> host_logits_;
};

}  // namespace lorax
