// Runs steps: turns sequences into the model's packed batch and gives back logits. Owns the
// workspace, the step's input buffers and the KV pages, all sized at start; a step allocates
// nothing.
//
// Where the device can capture, a step of one token for each sequence (decode) is filled up with
// rows of no sequence to the next of a few sizes, and one graph per size, with and without
// adapters, does all of it with one launch, the head included. A graph stays as sequences grow and
// adapters of any ranks come and go. What no graph covers (adapters that replace weights, have
// Medusa heads, or change the embedding or the head, or rows of these) runs launch by launch, with
// the same bits.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "device/workspace.h"
#include "engine/run/decode_buckets.h"
#include "engine/run/input_block.h"
#include "engine/run/runner_memory.h"
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
  bool use_graphs = true;             // where the device can capture
};

// What the runner has captured.
struct GraphStats {
  int64_t graphs = 0;
  double seconds = 0.0;  // that it took
  uint64_t bytes = 0;    // of device memory
};

// What one sequence does in a step. Views of what the caller holds.
struct SequenceStep {
  enum class Output { kNone, kLastRow, kAllRows };

  std::span<const int32_t> tokens;  // ids of the new ones, at least one
  int64_t position = 0;             // of the first: so many are cached
  std::span<const int32_t> blocks;  // pages, in order, for all up to the last new token
  int32_t adapter = kNoAdapter;     // its adapter's slot
  int64_t adapter_from = 0;         // tokens at positions before have none
  Output output = Output::kLastRow;
  // Of the ids that are given beside the step: where the last token's lies, which is then not read
  // from `tokens`. Negative: it is in `tokens`.
  int32_t last_id = -1;
};

class ModelRunner {
 public:
  // device, model and the tables (null: no sequence has an adapter) must outlive the runner.
  // Throws Error if memory is short.
  ModelRunner(Device& device, const FlashCausalLM& model, const RunnerLimits& limits,
              const AdapterTables* adapters = nullptr);

  // One forward over all `steps`. Returns the number of output rows: those of the first sequence,
  // then of the second, and so on. `ids` (device, [N] int32): what the steps' last_id point to, as
  // the device's work in front of this leaves it.
  int64_t step(std::span<const SequenceStep> steps, const Tensor& ids = {});

  // Logits of output rows [first, first + count) of the last step, [count, V] float32. On the
  // device: valid for work that it is asked for before the next call of this, logits() or step(),
  // and for that work to overwrite. On the host: valid until the next call of logits() or
  // speculative_logits(). count <= max_logits_rows.
  Tensor device_logits(int64_t first, int64_t count);
  std::span<const float> logits(int64_t first, int64_t count);

  // Of the last call of either: how many Medusa heads the adapters of its rows have at most, and
  // the logits of one head, [count, V]. Rows whose adapter lacks that head hold nothing of meaning.
  int64_t speculative_heads() const;
  std::span<const float> speculative_logits(int64_t head);

  Device& device() const { return device_; }
  // Captures all graphs now, rather than each after the first step that it fits.
  void capture_graphs();
  // How many there are then, where the device can capture.
  static int64_t graph_count(const RunnerLimits& limits, bool with_adapters);
  const GraphStats& graph_stats() const { return graph_stats_; }

  const RunnerLimits& limits() const { return limits_; }
  int64_t vocab_size() const { return memory_.vocab_size; }
  const RunnerMemory& memory() const { return memory_; }
  size_t kv_bytes() const {
    return static_cast<size_t>(cache_.blocks() * KvCache::kBlockSize) *
           model_.kv_shape().bytes_per_token();
  }

 private:
  // The step's inputs in host memory, filled anew in every step.
  struct Inputs {
    std::vector<int32_t> ids, positions, cu_seqlens, kv_lengths, block_tables, head_rows;
    std::vector<int64_t> slots;
    bool ids_are_known =
        true;  // those of -1 - i are to be read from the i-th given beside the step
  };

  // Adapters of some rows, on the host and as the model takes them.
  struct RowAdapters {
    AdapterBatchMetadata metadata;
    std::optional<AdapterBatchData> data;
  };

  // All of a decode step of one size, kept on the device.
  struct CapturedStep {
    std::unique_ptr<DeviceGraph> graph;
    Tensor hidden, logits;
  };

  void fill_inputs(std::span<const SequenceStep> steps);
  void fill_sequence(const SequenceStep& step);
  // Rows of no sequence, up to `rows` in all.
  void fill_up(int64_t rows);
  ForwardBatch put_inputs(int64_t sequences);
  void send_inputs(const ForwardBatch& batch, const Tensor& ids);
  // Null if no row has an adapter.
  const AdapterBatchData* put_adapters(RowAdapters& adapters, InputBlock& block);
  // As many rows, groups and slots for any adapters of that many rows.
  const AdapterBatchData* put_adapters_for_graph(RowAdapters& adapters, int64_t rows);

  bool is_decode(std::span<const SequenceStep> steps) const;
  // Whether a graph does what the adapters of the step change.
  bool fits_graph() const;
  // Over what fill_inputs() left.
  void run_decode(bool with_adapters, const Tensor& ids);
  void forward_decode(const ForwardBatch& batch);
  void capture(CapturedStep& step, const ForwardBatch& batch);

  Device& device_;
  const FlashCausalLM& model_;
  const AdapterTables* tables_;
  RunnerLimits limits_;
  int64_t blocks_per_sequence_;
  RunnerMemory memory_;
  Workspace workspace_;
  KvCache cache_;
  Inputs inputs_;
  InputBlock step_block_;
  InputBlock head_block_;
  RowAdapters step_adapters_;
  RowAdapters head_adapters_;               // of the rows of the last logits()
  std::vector<int32_t> head_row_adapters_;  // of each output row of the last step
  std::vector<int32_t> padded_rows_, padded_segments_, padded_slots_;
  std::optional<Workspace::Scope> step_scope_;
  std::optional<Workspace::Scope> head_scope_;
  Tensor hidden_;            // [rows, D] of the last step
  Tensor logits_;            // [rows, V] of the last step, if it has been to the head
  Tensor step_speculative_;  // [rows, heads, V] likewise
  Tensor speculative_;       // [rows, heads, V] of the last logits()
  HostBuffer host_logits_;

  DecodeBuckets buckets_;
  std::vector<int64_t> wide_modules_;  // the embedding and the head
  std::vector<bool> graph_modules_;    // that graphs apply adapters to
  std::vector<CapturedStep> graphs_;   // by bucket, without and with adapters
  GraphStats graph_stats_;
};

}  // namespace lorax
