#include "engine/run/runner_memory.h"

#include <utility>
#include <vector>

#include "device/dry_run.h"
#include "device/workspace.h"
#include "engine/run/input_block.h"
#include "engine/run/model_runner.h"
#include "engine/schedule/block_allocator.h"

namespace lorax {
namespace {

// Tables of one slot, which stands for the adapters that need most workspace: those with Medusa
// heads and with tokens of their own. Nothing lies behind its tensors.
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
  for (int64_t module = 0; module < modules; ++module) {  // the head is one of them
    slot.tokens.push_back({.module = module,
                           .tokens = Tensor(nullptr, DType::kInt32, {ops::kTokenColumns}),
                           .rows = Tensor(nullptr, dtype, {ops::kTokenColumns, hidden_size})});
  }
  tables.set(0, std::move(slot));
  return tables;
}

size_t adapter_input_bytes(int64_t rows) { return 3 * InputBlock::room_for<int32_t>(rows + 1); }

size_t step_input_bytes(const RunnerLimits& limits) {
  const int64_t tokens = limits.max_tokens;
  const int64_t sequences = limits.max_sequences;
  const int64_t blocks = pages_for(limits.max_length, KvCache::kBlockSize);
  return 3 * InputBlock::room_for<int32_t>(tokens) + InputBlock::room_for<int64_t>(tokens) +
         2 * InputBlock::room_for<int32_t>(sequences + 1) +
         InputBlock::room_for<int32_t>(sequences * blocks);
}

// The hidden states of a step's rows.
Tensor run_forward(Context& context, const FlashCausalLM& model, const RunnerLimits& limits) {
  const int64_t tokens = limits.max_tokens;
  const int64_t sequences = limits.max_sequences;
  const KvShape& shape = model.kv_shape();
  const Tensor pages(nullptr, shape.dtype,
                     {limits.kv_blocks, KvCache::kBlockSize, shape.kv_heads, shape.head_dim});
  const std::vector<PagedKv> cache(static_cast<size_t>(shape.layers), PagedKv{pages, pages});

  ForwardBatch batch;
  batch.input_ids = Tensor(nullptr, DType::kInt32, {tokens});
  batch.position_ids = Tensor(nullptr, DType::kInt32, {tokens});
  batch.slots = Tensor(nullptr, DType::kInt64, {tokens});
  batch.attention.cu_seqlens_q = Tensor(nullptr, DType::kInt32, {sequences + 1});
  batch.attention.kv_lengths = Tensor(nullptr, DType::kInt32, {sequences});
  batch.attention.block_tables = Tensor(
      nullptr, DType::kInt32, {sequences, pages_for(limits.max_length, KvCache::kBlockSize)});
  batch.output_rows = Tensor(nullptr, DType::kInt32, {tokens});
  batch.kv_cache = cache;
  return model.forward(context, batch);
}

// The head with the adapters that need most.
void run_widest_head(Context& context, const FlashCausalLM& model, const RunnerLimits& limits,
                     const Tensor& head_rows, int64_t vocab_size) {
  const AdapterTables widest = widest_adapter(context.device, model, limits.max_speculative_heads,
                                              head_rows.dim(1), vocab_size);
  AdapterBatchMetadata metadata;
  metadata.append(0, limits.max_logits_rows);
  metadata.group();
  LoraRows rows;
  rows.rows = Tensor(nullptr, DType::kInt32, {limits.max_logits_rows});
  rows.segments = Tensor(nullptr, DType::kInt32, {2});
  rows.slots = Tensor(nullptr, DType::kInt32, {1});
  rows.table = widest.device_table();
  const AdapterBatchData adapters(metadata, widest, rows, limits.max_speculative_heads);
  model.head(context, head_rows, &adapters);
}

}  // namespace

RunnerMemory measure_runner(const FlashCausalLM& model, const RunnerLimits& limits,
                            bool with_adapters) {
  DryRunDevice device;
  Workspace workspace = Workspace::measuring();
  Context context{device, workspace};
  RunnerMemory memory;
  const Tensor hidden = run_forward(context, model, limits);
  const Tensor head_rows = hidden.slice(0, 0, limits.max_logits_rows);
  {
    const Workspace::Scope scope(workspace);
    memory.vocab_size = model.head(context, head_rows, nullptr).logits.dim(1);
  }
  memory.step_inputs = step_input_bytes(limits);
  if (with_adapters) {
    run_widest_head(context, model, limits, head_rows, memory.vocab_size);
    memory.step_inputs += adapter_input_bytes(limits.max_tokens);
    memory.head_inputs = adapter_input_bytes(limits.max_logits_rows);
  }
  memory.workspace = workspace.peak_bytes();
  return memory;
}

}  // namespace lorax
