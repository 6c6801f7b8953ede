#include "engine/model_runner.h"

#include <algorithm>

#include "base/check.h"
#include "device/dry_run.h"

namespace lorax {
namespace {

// Tables of one slot, which stands for the adapters that need most workspace: those with Medusa
// heads. Nothing lies behind its tensors.
AdapterTables widest_adapter(Device& dry_run, const FlashCausalLM& model, int64_t heads,
                             int64_t hidden_size, int64_t vocab_size) {
  const int64_t modules = static_cast<int64_t>(model.adapter_modules().size());
  const DType dtype = model.kv_shape().dtype;
  AdapterTables tables(dry_run, modules, 1, dtype);
  AdapterSlot slot;
  slot.lora.assign(static_cast<size_t>(modules), LoraEntry{.rank = 1});
  const MedusaHead::Block block = {Tensor(nullptr, dtype, {hidden_size, hidden_size}),
                                   Tensor(nullptr, dtype, {hidden_size})};
  // Of a head's blocks, each needs the same room beside what the one before gave.
  slot.medusa.assign(static_cast<size_t>(heads),
                     {.blocks = std::vector<MedusaHead::Block>(kMaxMedusaLayers, block),
                      .output = Tensor(nullptr, dtype, {vocab_size, hidden_size})});
  tables.set(0, std::move(slot));
  return tables;
}

}  // namespace

SequenceStep next_step(const Sequence& sequence, int64_t tokens, SequenceStep::Output output) {
  LORAX_CHECK(tokens <= sequence.pending());
  return {.tokens = std::span(sequence.tokens)
                        .subspan(static_cast<size_t>(sequence.cached), static_cast<size_t>(tokens)),
          .position = sequence.cached,
          .blocks = sequence.blocks,
          .adapter = sequence.adapter,
          .output = output};
}

ModelRunner::ModelRunner(Device& device, const FlashCausalLM& model, const RunnerLimits& limits,
                         const AdapterTables* adapters)
    : device_(device),
      model_(model),
      tables_(adapters),
      limits_(limits),
      blocks_per_sequence_(pages_for(limits.max_length, KvCache::kBlockSize)),
      workspace_bytes_(measure_workspace()),
      workspace_(device, workspace_bytes_),
      cache_(device, model.kv_shape(), limits.kv_blocks) {
  const size_t tokens = static_cast<size_t>(limits.max_tokens);
  const size_t sequences = static_cast<size_t>(limits.max_sequences);
  inputs_.ids.reserve(tokens);
  inputs_.positions.reserve(tokens);
  inputs_.slots.reserve(tokens);
  inputs_.head_rows.reserve(tokens);
  inputs_.cu_seqlens.reserve(sequences + 1);
  inputs_.kv_lengths.reserve(sequences);
  inputs_.block_tables.reserve(sequences * static_cast<size_t>(blocks_per_sequence_));
  head_row_adapters_.reserve(tokens);
  step_adapters_.metadata.reserve(limits.max_tokens);
  head_adapters_.metadata.reserve(limits.max_logits_rows);
  host_logits_.resize(static_cast<size_t>(limits.max_logits_rows * vocab_size_));
}

size_t ModelRunner::measure_workspace() {
  DryRunDevice device;
  Workspace workspace = Workspace::measuring();
  Context context{device, workspace};
  const int64_t tokens = limits_.max_tokens;
  const int64_t sequences = limits_.max_sequences;
  const KvShape& shape = model_.kv_shape();
  const Tensor pages(nullptr, shape.dtype,
                     {limits_.kv_blocks, KvCache::kBlockSize, shape.kv_heads, shape.head_dim});
  const std::vector<PagedKv> cache(static_cast<size_t>(shape.layers), PagedKv{pages, pages});

  ForwardBatch batch;
  batch.input_ids = workspace.take(DType::kInt32, {tokens});
  batch.position_ids = workspace.take(DType::kInt32, {tokens});
  batch.slots = workspace.take(DType::kInt64, {tokens});
  batch.cu_seqlen_prefill = workspace.take(DType::kInt32, {sequences + 1});
  batch.seqlen.kv_lengths = workspace.take(DType::kInt32, {sequences});
  batch.block_tables = workspace.take(DType::kInt32, {sequences, blocks_per_sequence_});
  batch.lm_head_indices = workspace.take(DType::kInt32, {tokens});
  // What upload_adapters() takes.
  const auto take_adapter_rows = [&](int64_t rows) {
    for (int64_t count : {rows, rows + 1, rows}) workspace.take(DType::kInt32, {count});
  };
  if (tables_ != nullptr) take_adapter_rows(tokens);
  batch.kv_cache = cache;
  batch.skip_lm_head = true;
  const Tensor hidden = model_.forward(context, batch).logits;
  const Tensor head_rows = hidden.slice(0, 0, limits_.max_logits_rows);
  {
    const Workspace::Scope scope(workspace);
    vocab_size_ = model_.lm_head(context, head_rows, nullptr).logits.dim(1);
  }
  if (tables_ == nullptr) return workspace.peak_bytes();

  take_adapter_rows(limits_.max_logits_rows);
  const AdapterTables widest =
      widest_adapter(device, model_, limits_.max_speculative_heads, hidden.dim(1), vocab_size_);
  AdapterBatchMetadata metadata;
  metadata.append(0, limits_.max_logits_rows);
  metadata.group();
  LoraRows rows;
  rows.rows = Tensor(nullptr, DType::kInt32, {limits_.max_logits_rows});
  rows.segments = Tensor(nullptr, DType::kInt32, {2});
  rows.slots = Tensor(nullptr, DType::kInt32, {1});
  rows.table = widest.device_table();
  const AdapterBatchData adapters(metadata, widest, rows, limits_.max_speculative_heads);
  model_.lm_head(context, head_rows, &adapters);
  return workspace.peak_bytes();
}

void ModelRunner::fill_sequence(const SequenceStep& step) {
  const int64_t begin = step.position;
  const int64_t end = begin + static_cast<int64_t>(step.tokens.size());
  LORAX_CHECK(begin < end && end <= limits_.max_length);
  LORAX_CHECK(end <= static_cast<int64_t>(step.blocks.size()) * KvCache::kBlockSize);
  inputs_.ids.insert(inputs_.ids.end(), step.tokens.begin(), step.tokens.end());
  for (int64_t position = begin; position < end; ++position) {
    const int64_t block = step.blocks[static_cast<size_t>(position / KvCache::kBlockSize)];
    inputs_.positions.push_back(static_cast<int32_t>(position));
    inputs_.slots.push_back(block * KvCache::kBlockSize + position % KvCache::kBlockSize);
  }
  step_adapters_.metadata.append(step.adapter, end - begin);
  const int32_t rows = static_cast<int32_t>(inputs_.ids.size());
  switch (step.output) {
    case SequenceStep::Output::kNone:
      break;
    case SequenceStep::Output::kLastRow:
      inputs_.head_rows.push_back(rows - 1);
      break;
    case SequenceStep::Output::kAllRows:
      for (int32_t row = inputs_.cu_seqlens.back(); row < rows; ++row) {
        inputs_.head_rows.push_back(row);
      }
      break;
  }
  head_row_adapters_.resize(inputs_.head_rows.size(), step.adapter);
  inputs_.cu_seqlens.push_back(rows);
  inputs_.kv_lengths.push_back(static_cast<int32_t>(end));
  const size_t used = std::min(step.blocks.size(), static_cast<size_t>(blocks_per_sequence_));
  inputs_.block_tables.insert(inputs_.block_tables.end(), step.blocks.begin(),
                              step.blocks.begin() + static_cast<ptrdiff_t>(used));
  inputs_.block_tables.resize(inputs_.kv_lengths.size() *
                              static_cast<size_t>(blocks_per_sequence_));
}

void ModelRunner::fill_inputs(std::span<const SequenceStep> steps) {
  inputs_.ids.clear();
  inputs_.positions.clear();
  inputs_.slots.clear();
  inputs_.head_rows.clear();
  inputs_.kv_lengths.clear();
  inputs_.block_tables.clear();
  inputs_.cu_seqlens.assign(1, 0);
  step_adapters_.metadata.clear();
  head_row_adapters_.clear();
  for (const SequenceStep& step : steps) fill_sequence(step);
}

template <typename T>
Tensor ModelRunner::upload(const std::vector<T>& host, std::initializer_list<int64_t> shape) {
  const Tensor tensor = workspace_.take(dtype_of<T>(), shape);
  LORAX_CHECK(tensor.bytes() == host.size() * sizeof(T));
  device_.copy_from_host(tensor.data, host.data(), tensor.bytes());
  return tensor;
}

const AdapterBatchData* ModelRunner::upload_adapters(RowAdapters& adapters) {
  AdapterBatchMetadata& metadata = adapters.metadata;
  metadata.group();
  adapters.data.reset();
  if (!metadata.has_adapters()) return nullptr;
  LORAX_CHECK(tables_ != nullptr);
  const int64_t slots = static_cast<int64_t>(metadata.slots().size());
  LoraRows rows;
  rows.rows = upload(metadata.rows(), {static_cast<int64_t>(metadata.rows().size())});
  rows.segments = upload(metadata.group_boundaries(), {slots + 1});
  rows.slots = upload(metadata.slots(), {slots});
  rows.table = tables_->device_table();
  return &adapters.data.emplace(metadata, *tables_, rows, limits_.max_speculative_heads);
}

ForwardBatch ModelRunner::upload_inputs(int64_t sequences) {
  const int64_t tokens = static_cast<int64_t>(inputs_.ids.size());
  ForwardBatch batch;
  batch.input_ids = upload(inputs_.ids, {tokens});
  batch.position_ids = upload(inputs_.positions, {tokens});
  batch.slots = upload(inputs_.slots, {tokens});
  const Tensor cu_seqlens = upload(inputs_.cu_seqlens, {sequences + 1});
  (tokens == sequences ? batch.seqlen.cu_seqlen_q : batch.cu_seqlen_prefill) = cu_seqlens;
  batch.seqlen.kv_lengths = upload(inputs_.kv_lengths, {sequences});
  batch.block_tables = upload(inputs_.block_tables, {sequences, blocks_per_sequence_});
  batch.lm_head_indices =
      upload(inputs_.head_rows, {static_cast<int64_t>(inputs_.head_rows.size())});
  for (size_t i = 0; i < inputs_.kv_lengths.size(); ++i) {
    batch.max_s = std::max(batch.max_s, inputs_.kv_lengths[i]);
    batch.seqlen.max_q =
        std::max(batch.seqlen.max_q, inputs_.cu_seqlens[i + 1] - inputs_.cu_seqlens[i]);
  }
  batch.kv_cache = cache_.layers();
  batch.adapter_data = upload_adapters(step_adapters_);
  batch.skip_lm_head = true;
  return batch;
}

int64_t ModelRunner::step(std::span<const SequenceStep> steps) {
  LORAX_CHECK(!steps.empty() && static_cast<int64_t>(steps.size()) <= limits_.max_sequences);
  fill_inputs(steps);
  LORAX_CHECK(static_cast<int64_t>(inputs_.ids.size()) <= limits_.max_tokens);
  head_scope_.reset();
  step_scope_.reset();
  step_scope_.emplace(workspace_);
  Context context{device_, workspace_};
  hidden_ = model_.forward(context, upload_inputs(static_cast<int64_t>(steps.size()))).logits;
  return hidden_.dim(0);
}

std::span<const float> ModelRunner::logits(int64_t first, int64_t count) {
  LORAX_CHECK(count <= limits_.max_logits_rows);
  head_scope_.reset();
  head_scope_.emplace(workspace_);
  head_adapters_.metadata.clear();
  for (int64_t row = first; row < first + count; ++row) {
    head_adapters_.metadata.append(head_row_adapters_[static_cast<size_t>(row)], 1);
  }
  Context context{device_, workspace_};
  const ForwardOutput output = model_.lm_head(context, hidden_.slice(0, first, first + count),
                                              upload_adapters(head_adapters_));
  speculative_ = output.speculative_logits;
  device_.copy_to_host(host_logits_.data(), output.logits.data, output.logits.bytes());
  return {host_logits_.data(), static_cast<size_t>(count * vocab_size_)};
}

int64_t ModelRunner::speculative_heads() const {
  return speculative_.empty() ? 0 : speculative_.dim(1);
}

std::span<const float> ModelRunner::speculative_logits(int64_t head) {
  const Tensor logits = speculative_.select(1, head);  // [rows, V]
  LORAX_CHECK(logits.is_contiguous());
  device_.copy_to_host(host_logits_.data(), logits.data, logits.bytes());
  return {host_logits_.data(), static_cast<size_t>(logits.numel())};
}

}  // namespace lorax
