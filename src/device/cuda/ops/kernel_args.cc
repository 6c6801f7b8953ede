#include "device/cuda/ops/kernel_args.h"

#include <algorithm>

#include "base/check.h"

namespace lorax::cuda {

Rows rows_of(const Tensor& x) { return {x.data, x.dtype, x.stride(0)}; }

LogitRows logit_rows(const Tensor& logits) {
  return {logits.as<float>(), logits.dim(0), logits.dim(1), logits.stride(0)};
}

LinearArgs linear_args(const Tensor& x, const Tensor& weight, const Tensor& out) {
  return {.x = rows_of(x),
          .weight = weight.data,
          .out = rows_of(out),
          .rows = x.dim(0),
          .m = weight.dim(0),
          .n = weight.dim(1)};
}

NormArgs norm_args(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) {
  return {.x = rows_of(x),
          .weight = weight.as<float>(),
          .rows = x.dim(0),
          .width = x.dim(1),
          .eps = eps,
          .out = rows_of(out)};
}

LoraArgs lora_args(LoraTargets targets, const LoraRows& rows, const Tensor& out) {
  LORAX_CHECK(targets.size() <= kMaxLoraTargets);
  LoraArgs args;
  args.x.dtype = rows.table.dtype;
  args.out = rows_of(out);
  args.n_targets = static_cast<int>(targets.size());
  std::ranges::copy(targets, args.targets);
  args.rows = rows.rows.as<int32_t>();
  args.segments = rows.segments.as<int32_t>();
  args.slots = rows.slots.as<int32_t>();
  args.n_segments = static_cast<int>(rows.slots.dim(0));
  args.entries = rows.table.entries;
  args.modules = rows.table.modules;
  return args;
}

LoraArgs lora_args(const Tensor& x, LoraTargets targets, const LoraRows& rows, const Tensor& out) {
  LoraArgs args = lora_args(targets, rows, out);
  args.x = rows_of(x);
  args.n = x.dim(1);
  return args;
}

RotaryStoreArgs rotary_store_args(const Tensor& q, const Tensor& k, const Tensor& v,
                                  const Tensor& positions, const Tensor& cos, const Tensor& sin,
                                  const Tensor& slots, const PagedKv& kv) {
  return {.q = rows_of(q),
          .k = rows_of(k),
          .v = rows_of(v),
          .rows = q.dim(0),
          .heads = q.dim(1),
          .kv_heads = k.dim(1),
          .head_size = q.dim(2),
          .positions = positions.as<int32_t>(),
          .cos = cos.as<float>(),
          .sin = sin.as<float>(),
          .slots = slots.as<int64_t>(),
          .key = kv.key.data,
          .value = kv.value.data};
}

AttentionArgs attention_args(const Tensor& q, const PagedKv& kv, const AttentionBatch& batch,
                             const AttentionOptions& options, const Tensor& out) {
  return {.dtype = q.dtype,
          .q = q.data,
          .q_stride = q.stride(0),
          .key = kv.key.data,
          .value = kv.value.data,
          .out = out.data,
          .cu_seqlens_q = batch.cu_seqlens_q.as<int32_t>(),
          .kv_lengths = batch.kv_lengths.as<int32_t>(),
          .block_tables = batch.block_tables.as<int32_t>(),
          .max_blocks = static_cast<int>(batch.block_tables.dim(1)),
          .block_size = static_cast<int>(kv.key.dim(1)),
          .blocks = kv.key.dim(0),
          .sequences = static_cast<int>(batch.block_tables.dim(0)),
          .tokens = q.dim(0),
          .heads = static_cast<int>(q.dim(1)),
          .kv_heads = static_cast<int>(kv.key.dim(2)),
          .head_size = static_cast<int>(q.dim(2)),
          .max_q = batch.max_q,
          .max_kv = batch.max_kv,
          .scale = options.scale,
          .softcap = options.softcap,
          .window = options.window};
}

}  // namespace lorax::cuda
