#include "engine/run/model_runner.h"

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "engine/schedule/block_allocator.h"

namespace lorax {
namespace {

// Of the heads' inputs, so that two steps of one token each may wait in the device's queue.
int64_t head_turns(const RunnerLimits& limits) {
  return 2 * (limits.max_sequences / limits.max_logits_rows + 1);
}

}  // namespace

ModelRunner::ModelRunner(Device& device, const FlashCausalLM& model, const RunnerLimits& limits,
                         const AdapterTables* adapters)
    : device_(device),
      model_(model),
      tables_(adapters),
      limits_(limits),
      blocks_per_sequence_(pages_for(limits.max_length, KvCache::kBlockSize)),
      memory_(measure_runner(model, limits, adapters != nullptr)),
      workspace_(device, memory_.workspace),
      cache_(device, model.kv_shape(), limits.kv_blocks),
      step_block_(device, memory_.step_inputs),
      head_block_(device, memory_.head_inputs, head_turns(limits)),
      host_logits_(
          device, static_cast<size_t>(limits.max_logits_rows * memory_.vocab_size) * sizeof(float)),
      buckets_(std::min(limits.max_sequences, limits.max_tokens)) {
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
  padded_rows_.reserve(sequences);
  padded_segments_.reserve(sequences + 1);
  padded_slots_.reserve(sequences);

  const std::vector<AdapterModule>& modules = model.adapter_modules();
  for (size_t i = 0; i < modules.size(); ++i) {
    const bool is_wide =
        modules[i].in == memory_.vocab_size || modules[i].out == memory_.vocab_size;
    if (is_wide) wide_modules_.push_back(static_cast<int64_t>(i));
    graph_modules_.push_back(!is_wide && modules[i].kind == AdapterModule::Kind::kLinear);
  }
  graphs_.resize(static_cast<size_t>(2 * buckets_.count()));
}

void ModelRunner::fill_sequence(const SequenceStep& step) {
  const int64_t begin = step.position;
  const int64_t end = begin + static_cast<int64_t>(step.tokens.size());
  LORAX_CHECK(begin < end && end <= limits_.max_length);
  LORAX_CHECK(end <= static_cast<int64_t>(step.blocks.size()) * KvCache::kBlockSize);
  inputs_.ids.insert(inputs_.ids.end(), step.tokens.begin(), step.tokens.end());
  if (step.last_id >= 0) {
    inputs_.ids.back() = -1 - step.last_id;
    inputs_.ids_are_known = false;
  }
  for (int64_t position = begin; position < end; ++position) {
    const int64_t block = step.blocks[static_cast<size_t>(position / KvCache::kBlockSize)];
    inputs_.positions.push_back(static_cast<int32_t>(position));
    inputs_.slots.push_back(block * KvCache::kBlockSize + position % KvCache::kBlockSize);
  }
  const int64_t adapter_from = std::clamp(step.adapter_from, begin, end);
  step_adapters_.metadata.append(kNoAdapter, adapter_from - begin);
  step_adapters_.metadata.append(step.adapter, end - adapter_from);
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
  const int64_t first_row = rows - (end - begin);
  while (head_row_adapters_.size() < inputs_.head_rows.size()) {
    const int64_t position = begin + inputs_.head_rows[head_row_adapters_.size()] - first_row;
    head_row_adapters_.push_back(position < adapter_from ? kNoAdapter : step.adapter);
  }
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
  inputs_.ids_are_known = true;
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

void ModelRunner::fill_up(int64_t rows) {
  while (static_cast<int64_t>(inputs_.ids.size()) < rows) {
    inputs_.ids.push_back(0);
    inputs_.positions.push_back(0);
    inputs_.slots.push_back(-1);
    inputs_.kv_lengths.push_back(0);
    inputs_.cu_seqlens.push_back(static_cast<int32_t>(inputs_.ids.size()));
    step_adapters_.metadata.append(kNoAdapter, 1);
  }
  inputs_.block_tables.resize(static_cast<size_t>(rows * blocks_per_sequence_));
}

const AdapterBatchData* ModelRunner::put_adapters(RowAdapters& adapters, InputBlock& block) {
  const AdapterBatchMetadata& metadata = adapters.metadata;
  adapters.data.reset();
  if (!metadata.has_adapters()) return nullptr;
  LORAX_CHECK(tables_ != nullptr);
  const int64_t slots = static_cast<int64_t>(metadata.slots().size());
  LoraRows rows;
  rows.rows = block.put(std::span(metadata.rows()), {static_cast<int64_t>(metadata.rows().size())});
  rows.segments = block.put(std::span(metadata.group_boundaries()), {slots + 1});
  rows.slots = block.put(std::span(metadata.slots()), {slots});
  rows.table = tables_->device_table();
  return &adapters.data.emplace(metadata, *tables_, rows, limits_.max_speculative_heads);
}

const AdapterBatchData* ModelRunner::put_adapters_for_graph(RowAdapters& adapters, int64_t rows) {
  const AdapterBatchMetadata& metadata = adapters.metadata;
  padded_rows_.assign(metadata.rows().begin(), metadata.rows().end());
  padded_segments_.assign(metadata.group_boundaries().begin(), metadata.group_boundaries().end());
  padded_slots_.assign(metadata.slots().begin(), metadata.slots().end());
  // Groups without rows, of a slot that is never looked at.
  padded_rows_.resize(static_cast<size_t>(rows));
  padded_segments_.resize(static_cast<size_t>(rows + 1), padded_segments_.back());
  padded_slots_.resize(static_cast<size_t>(rows));
  LoraRows padded;
  padded.rows = step_block_.put(std::span<const int32_t>(padded_rows_), {rows});
  padded.segments = step_block_.put(std::span<const int32_t>(padded_segments_), {rows + 1});
  padded.slots = step_block_.put(std::span<const int32_t>(padded_slots_), {rows});
  padded.table = tables_->device_table();
  return &adapters.data.emplace(metadata, *tables_, padded, limits_.max_speculative_heads,
                                &graph_modules_);
}

ForwardBatch ModelRunner::put_inputs(int64_t sequences) {
  const int64_t tokens = static_cast<int64_t>(inputs_.ids.size());
  const auto put = [this](const std::vector<int32_t>& values,
                          std::initializer_list<int64_t> shape) {
    return step_block_.put(std::span(values), shape);
  };
  ForwardBatch batch;
  batch.input_ids = put(inputs_.ids, {tokens});
  batch.position_ids = put(inputs_.positions, {tokens});
  batch.slots = step_block_.put(std::span<const int64_t>(inputs_.slots), {tokens});
  AttentionBatch& attention = batch.attention;
  attention.cu_seqlens_q = put(inputs_.cu_seqlens, {sequences + 1});
  attention.kv_lengths = put(inputs_.kv_lengths, {sequences});
  attention.block_tables = put(inputs_.block_tables, {sequences, blocks_per_sequence_});
  for (size_t i = 0; i < inputs_.kv_lengths.size(); ++i) {
    attention.max_kv = std::max(attention.max_kv, inputs_.kv_lengths[i]);
    attention.max_q = std::max(attention.max_q, inputs_.cu_seqlens[i + 1] - inputs_.cu_seqlens[i]);
  }
  batch.kv_cache = cache_.layers();
  return batch;
}

void ModelRunner::send_inputs(const ForwardBatch& batch, const Tensor& ids) {
  step_block_.send();
  if (inputs_.ids_are_known) return;
  LORAX_CHECK(!ids.empty());
  device_.fill_in_ids(batch.input_ids, ids);
}

bool ModelRunner::is_decode(std::span<const SequenceStep> steps) const {
  return device_.can_capture() && std::ranges::all_of(steps, [](const SequenceStep& step) {
           return step.tokens.size() == 1 && step.output != SequenceStep::Output::kNone;
         });
}

bool ModelRunner::fits_graph() const {
  return std::ranges::all_of(step_adapters_.metadata.slots(), [this](int32_t slot) {
    const AdapterSlot& content = tables_->slot(slot);
    return content.replacements.empty() && content.tokens.empty() && content.medusa.empty() &&
           std::ranges::none_of(wide_modules_, [&content](int64_t module) {
             return content.lora[static_cast<size_t>(module)].rank > 0;
           });
  });
}

int64_t ModelRunner::step(std::span<const SequenceStep> steps, const Tensor& ids) {
  const int64_t sequences = static_cast<int64_t>(steps.size());
  LORAX_CHECK(0 < sequences && sequences <= limits_.max_sequences);
  fill_inputs(steps);
  LORAX_CHECK(static_cast<int64_t>(inputs_.ids.size()) <= limits_.max_tokens);
  head_scope_.reset();
  step_scope_.reset();
  step_scope_.emplace(workspace_);
  step_block_.begin();
  logits_ = Tensor();
  step_speculative_ = Tensor();
  if (is_decode(steps)) {
    const int64_t bucket = buckets_.rows(buckets_.index_for(sequences));
    fill_up(bucket);
    step_adapters_.metadata.group();
    run_decode(step_adapters_.metadata.has_adapters(), ids);
    return sequences;
  }
  step_adapters_.metadata.group();
  ForwardBatch batch = put_inputs(sequences);
  const int64_t rows = static_cast<int64_t>(inputs_.head_rows.size());
  batch.output_rows = step_block_.put(std::span<const int32_t>(inputs_.head_rows), {rows});
  batch.adapters = put_adapters(step_adapters_, step_block_);
  send_inputs(batch, ids);
  Context context{device_, workspace_};
  hidden_ = model_.forward(context, batch);
  return rows;
}

void ModelRunner::run_decode(bool with_adapters, const Tensor& ids) {
  const int64_t rows = static_cast<int64_t>(inputs_.ids.size());
  const bool is_covered = limits_.use_graphs && fits_graph();
  ForwardBatch batch = put_inputs(rows);
  // Splits of long sequences follow from the bound, so that a graph may outlive the lengths.
  batch.attention.max_kv = static_cast<int>(limits_.max_length);
  if (with_adapters) {
    batch.adapters = is_covered ? put_adapters_for_graph(step_adapters_, rows)
                                : put_adapters(step_adapters_, step_block_);
  }
  send_inputs(batch, ids);
  if (!is_covered) return forward_decode(batch);
  CapturedStep& captured = graphs_[static_cast<size_t>(2 * buckets_.index_for(rows)) +
                                   static_cast<size_t>(with_adapters)];
  if (captured.graph == nullptr) {
    forward_decode(batch);  // this step, and what a shape needs once before it is captured
    capture(captured, batch);
  } else {
    device_.replay(*captured.graph);
  }
  hidden_ = captured.hidden;
  logits_ = captured.logits;
}

void ModelRunner::forward_decode(const ForwardBatch& batch) {
  Context context{device_, workspace_};
  hidden_ = model_.forward(context, batch);
  if (hidden_.dim(0) > limits_.max_logits_rows) return;
  const HeadOutput output = model_.head(context, hidden_, batch.adapters);
  logits_ = output.logits;
  step_speculative_ = output.speculative_logits;
}

void ModelRunner::capture(CapturedStep& step, const ForwardBatch& batch) {
  const uint64_t free_before = device_.available_memory();
  const auto start = std::chrono::steady_clock::now();
  // The same sizes once more, hence the same addresses.
  step_scope_.reset();
  step_scope_.emplace(workspace_);
  step.graph = device_.capture([&] { forward_decode(batch); });
  step.hidden = hidden_;
  step.logits = logits_;
  graph_stats_.seconds +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const uint64_t free_after = device_.available_memory();
  graph_stats_.bytes += free_before > free_after ? free_before - free_after : 0;
  ++graph_stats_.graphs;
}

int64_t ModelRunner::graph_count(const RunnerLimits& limits, bool with_adapters) {
  const DecodeBuckets buckets(std::min(limits.max_sequences, limits.max_tokens));
  return limits.use_graphs ? buckets.count() * (with_adapters ? 2 : 1) : 0;
}

void ModelRunner::capture_graphs() {
  if (!device_.can_capture() || !limits_.use_graphs) return;
  for (int64_t bucket = 0; bucket < buckets_.count(); ++bucket) {
    for (bool with_adapters : {false, true}) {
      if (with_adapters && tables_ == nullptr) continue;
      fill_inputs({});
      head_scope_.reset();
      step_scope_.reset();
      step_scope_.emplace(workspace_);
      step_block_.begin();
      fill_up(buckets_.rows(bucket));
      step_adapters_.metadata.group();
      run_decode(with_adapters, {});
    }
  }
  device_.synchronize();
}

Tensor ModelRunner::device_logits(int64_t first, int64_t count) {
  LORAX_CHECK(count <= limits_.max_logits_rows);
  if (!logits_.empty()) {
    speculative_ =
        step_speculative_.empty() ? Tensor() : step_speculative_.slice(0, first, first + count);
    return logits_.slice(0, first, first + count);
  }
  head_scope_.reset();
  head_scope_.emplace(workspace_);
  head_adapters_.metadata.clear();
  for (int64_t row = first; row < first + count; ++row) {
    head_adapters_.metadata.append(head_row_adapters_[static_cast<size_t>(row)], 1);
  }
  head_adapters_.metadata.group();
  head_block_.begin();
  const AdapterBatchData* adapters = put_adapters(head_adapters_, head_block_);
  if (adapters != nullptr) head_block_.send();
  Context context{device_, workspace_};
  const HeadOutput output = model_.head(context, hidden_.slice(0, first, first + count), adapters);
  speculative_ = output.speculative_logits;
  return output.logits;
}

std::span<const float> ModelRunner::logits(int64_t first, int64_t count) {
  const Tensor logits = device_logits(first, count);
  float* host = static_cast<float*>(host_logits_.data());
  device_.copy_to_host(host, logits.data, logits.bytes());
  return {host, static_cast<size_t>(count * memory_.vocab_size)};
}

int64_t ModelRunner::speculative_heads() const {
  return speculative_.empty() ? 0 : speculative_.dim(1);
}

std::span<const float> ModelRunner::speculative_logits(int64_t head) {
  const Tensor logits = speculative_.select(1, head);  // [rows, V]
  LORAX_CHECK(logits.is_contiguous());
  float* host = static_cast<float*>(host_logits_.data());
  device_.copy_to_host(host, logits.data, logits.bytes());
  return {host, static_cast<size_t>(logits.numel())};
}

}  // namespace lorax
