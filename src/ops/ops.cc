#include "ops/ops.h"

#include <algorithm>

namespace lorax::ops {
namespace {

bool is_model_dtype(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kBFloat16 || dtype == DType::kFloat16;
}

bool has_dense_rows(const Tensor& x) { return x.stride(x.rank - 1) == 1; }

void check_norm(const Tensor& x, const Tensor& weight) {
  LORAX_CHECK(x.rank == 2 && is_model_dtype(x.dtype) && has_dense_rows(x), "{}", x.describe());
  LORAX_CHECK(weight.dtype == DType::kFloat32 && weight.has_shape({x.dim(1)}), "{} for {}",
              weight.describe(), x.describe());
}

void check_heads(const Tensor& x) {
  LORAX_CHECK(
      x.rank == 3 && is_model_dtype(x.dtype) && has_dense_rows(x) && x.stride(1) == x.dim(2), "{}",
      x.describe());
}

void check_rotary(const Tensor& x, const Tensor& positions, const Tensor& cos, const Tensor& sin) {
  check_heads(x);
  LORAX_CHECK(positions.dtype == DType::kInt32 && positions.has_shape({x.dim(0)}));
  LORAX_CHECK(x.dim(2) % 2 == 0 && cos.rank == 2 && cos.dim(1) == x.dim(2) / 2 &&
              sin.has_shape({cos.dim(0), cos.dim(1)}));
}

void check_store(const Tensor& k, const Tensor& v, const Tensor& slots, const PagedKv& kv) {
  check_heads(k);
  check_heads(v);
  LORAX_CHECK(slots.dtype == DType::kInt64 && slots.has_shape({k.dim(0)}));
  LORAX_CHECK(kv.key.rank == 4 && kv.key.dim(2) == k.dim(1) && kv.key.dim(3) == k.dim(2) &&
                  kv.key.dtype == k.dtype,
              "{} into {}", k.describe(), kv.key.describe());
}

void check_linear(const Tensor& x, const Tensor& weight, const Tensor& out) {
  LORAX_CHECK(x.rank == 2 && weight.rank == 2 && x.dim(1) == weight.dim(1) &&
                  x.dtype == weight.dtype && is_model_dtype(x.dtype),
              "{} times {}", x.describe(), weight.describe());
  LORAX_CHECK(out.has_shape({x.dim(0), weight.dim(0)}) &&
                  (out.dtype == DType::kFloat32 || out.dtype == x.dtype),
              "{} times {} into {}", x.describe(), weight.describe(), out.describe());
  LORAX_CHECK(has_dense_rows(x) && has_dense_rows(out) && weight.is_contiguous());
}

void check_lora_rows(const LoraRows& rows) {
  LORAX_CHECK(rows.rows.dtype == DType::kInt32 && rows.segments.dtype == DType::kInt32 &&
              rows.slots.dtype == DType::kInt32 &&
              rows.segments.has_shape({rows.slots.dim(0) + 1}));
}

void check_lora(const Tensor& x, LoraTargets targets, const LoraRows& rows, const Tensor& out) {
  LORAX_CHECK(x.rank == 2 && out.rank == 2 && x.dim(0) == out.dim(0) && has_dense_rows(x) &&
                  has_dense_rows(out) && x.dtype == rows.table.dtype,
              "{} to {}", x.describe(), out.describe());
  check_lora_rows(rows);
  for (const LoraTarget& target : targets) {
    LORAX_CHECK(target.column + target.columns <= out.dim(1) && target.module < rows.table.modules);
  }
}

}  // namespace

Tensor embedding(Context& context, const Tensor& ids, const Tensor& table, float scale) {
  const Tensor out = context.workspace.take(DType::kFloat32, {ids.dim(0), table.dim(1)});
  embedding_into(context, ids, table, scale, out);
  return out;
}

void embedding_into(Context& context, const Tensor& ids, const Tensor& table, float scale,
                    const Tensor& out) {
  LORAX_CHECK(ids.rank == 1 && ids.dtype == DType::kInt32);
  LORAX_CHECK(table.rank == 2 && is_model_dtype(table.dtype) && table.is_contiguous());
  LORAX_CHECK(out.dtype == DType::kFloat32 && out.has_shape({ids.dim(0), table.dim(1)}));
  context.device.embedding(ids, table, scale, out);
}

void token_embedding_into(Context& context, const Tensor& ids, const Tensor& tokens,
                          const Tensor& rows, float scale, const Tensor& out) {
  LORAX_CHECK(ids.rank == 1 && ids.dtype == DType::kInt32 && tokens.dtype == DType::kInt32);
  LORAX_CHECK(rows.has_shape({tokens.dim(0), out.dim(1)}) && is_model_dtype(rows.dtype) &&
              rows.is_contiguous());
  LORAX_CHECK(out.dtype == DType::kFloat32 && out.dim(0) == ids.dim(0) && has_dense_rows(out));
  context.device.token_embedding(ids, tokens, rows, scale, out);
}

Tensor rms_norm(Context& context, const Tensor& x, const Tensor& weight, float eps,
                DType out_dtype) {
  const Tensor out = context.workspace.take(out_dtype, {x.dim(0), x.dim(1)});
  rms_norm_into(context, x, weight, eps, out);
  return out;
}

void rms_norm_into(Context& context, const Tensor& x, const Tensor& weight, float eps,
                   const Tensor& out) {
  check_norm(x, weight);
  LORAX_CHECK(is_model_dtype(out.dtype) && out.has_shape({x.dim(0), x.dim(1)}));
  context.device.rms_norm(x, weight, eps, out);
}

void rms_norm_add(Context& context, const Tensor& x, const Tensor& weight, float eps,
                  const Tensor& residual) {
  check_norm(x, weight);
  LORAX_CHECK(residual.dtype == DType::kFloat32 && residual.has_shape({x.dim(0), x.dim(1)}));
  context.device.rms_norm_add(x, weight, eps, residual);
}

void rms_norm_add_norm_into(Context& context, const Tensor& x, const Tensor& weight, float eps,
                            const Tensor& residual, const Tensor& next_weight, float next_eps,
                            const Tensor& out) {
  check_norm(x, weight);
  check_norm(residual, next_weight);
  LORAX_CHECK(residual.dtype == DType::kFloat32 && residual.has_shape({x.dim(0), x.dim(1)}));
  LORAX_CHECK(is_model_dtype(out.dtype) && out.has_shape({x.dim(0), x.dim(1)}));
  context.device.rms_norm_add_norm(x, weight, eps, residual, next_weight, next_eps, out);
}

Tensor linear(Context& context, const Tensor& x, const Tensor& weight, DType out_dtype) {
  const Tensor out = context.workspace.take(out_dtype, {x.dim(0), weight.dim(0)});
  linear_into(context, x, weight, out);
  return out;
}

void linear_into(Context& context, const Tensor& x, const Tensor& weight, const Tensor& out) {
  check_linear(x, weight, out);
  context.device.linear(x, weight, out);
}

void token_columns_into(Context& context, const Tensor& x, const Tensor& tokens, const Tensor& rows,
                        const Tensor& out) {
  LORAX_CHECK(tokens.dtype == DType::kInt32 && tokens.has_shape({rows.dim(0)}) &&
              out.dtype == DType::kFloat32 && out.dim(0) == x.dim(0) && has_dense_rows(out));
  for (int64_t begin = 0; begin < tokens.dim(0); begin += kTokenColumns) {
    const int64_t end = std::min(tokens.dim(0), begin + kTokenColumns);
    const Workspace::Scope scope(context.workspace);
    const Tensor columns = linear(context, x, rows.slice(0, begin, end), DType::kFloat32);
    context.device.scatter_columns(columns, tokens.slice(0, begin, end), out);
  }
}

void lora(Context& context, const Tensor& x, LoraTargets targets, const LoraRows& rows,
          const Tensor& out) {
  check_lora(x, targets, rows, out);
  context.device.lora(x, targets, rows, out);
}

void linear_lora_into(Context& context, const Tensor& x, const Tensor& weight, LoraTargets targets,
                      const LoraRows& rows, const Tensor& out) {
  check_linear(x, weight, out);
  check_lora(x, targets, rows, out);
  context.device.linear_lora(x, weight, targets, rows, out);
}

void lora_embedding(Context& context, const Tensor& ids, float multiplier, int64_t module,
                    const LoraRows& rows, const Tensor& out) {
  LORAX_CHECK(ids.dtype == DType::kInt32 && ids.has_shape({out.dim(0)}) &&
              out.dtype == DType::kFloat32 && module < rows.table.modules);
  check_lora_rows(rows);
  context.device.lora_embedding(ids, multiplier, module, rows, out);
}

Tensor add_silu(Context& context, const Tensor& x, const Tensor& h, const Tensor& bias) {
  LORAX_CHECK(x.rank == 2 && h.has_shape({x.dim(0), x.dim(1)}) && bias.has_shape({x.dim(1)}) &&
                  x.dtype == h.dtype && x.dtype == bias.dtype && has_dense_rows(x),
              "{} and {}", x.describe(), h.describe());
  const Tensor out = context.workspace.take(x.dtype, {x.dim(0), x.dim(1)});
  context.device.add_silu(x, h, bias, out);
  return out;
}

void rotary(Context& context, const Tensor& x, const Tensor& positions, const Tensor& cos,
            const Tensor& sin) {
  check_rotary(x, positions, cos, sin);
  context.device.rotary(x, positions, cos, sin);
}

void rotary_store_kv(Context& context, const Tensor& q, const Tensor& k, const Tensor& v,
                     const Tensor& positions, const Tensor& cos, const Tensor& sin,
                     const Tensor& slots, const PagedKv& kv) {
  check_rotary(q, positions, cos, sin);
  check_rotary(k, positions, cos, sin);
  check_store(k, v, slots, kv);
  context.device.rotary_store_kv(q, k, v, positions, cos, sin, slots, kv);
}

void store_kv(Context& context, const Tensor& k, const Tensor& v, const Tensor& slots,
              const PagedKv& kv) {
  check_store(k, v, slots, kv);
  context.device.store_kv(k, v, slots, kv);
}

Tensor attention(Context& context, const Tensor& q, const PagedKv& kv, const AttentionBatch& batch,
                 const AttentionOptions& options) {
  check_heads(q);
  LORAX_CHECK(kv.key.rank == 4 && q.dim(1) % kv.key.dim(2) == 0 && q.dim(2) == kv.key.dim(3) &&
                  q.dtype == kv.key.dtype,
              "{} over {}", q.describe(), kv.key.describe());
  LORAX_CHECK(batch.block_tables.rank == 2 &&
              batch.kv_lengths.has_shape({batch.block_tables.dim(0)}) &&
              batch.cu_seqlens_q.has_shape({batch.block_tables.dim(0) + 1}));
  Tensor out = context.workspace.take(q.dtype, {q.dim(0), q.dim(1), q.dim(2)});
  context.device.attention(q, kv, batch, options, out);
  return out.view({q.dim(0), q.dim(1) * q.dim(2)});
}

Tensor gelu_tanh_mul(Context& context, const Tensor& gate_up) {
  LORAX_CHECK(gate_up.rank == 2 && gate_up.dim(1) % 2 == 0 && is_model_dtype(gate_up.dtype));
  Tensor out = context.workspace.take(gate_up.dtype, {gate_up.dim(0), gate_up.dim(1) / 2});
  context.device.gelu_tanh_mul(gate_up, out);
  return out;
}

Tensor linear_gelu_tanh_mul(Context& context, const Tensor& x, const Tensor& weight) {
  const Tensor out = context.workspace.take(x.dtype, {x.dim(0), weight.dim(0) / 2});
  const Tensor gate_up = context.workspace.take(x.dtype, {x.dim(0), weight.dim(0)});
  LORAX_CHECK(x.rank == 2 && weight.rank == 2 && x.dim(1) == weight.dim(1) &&
                  weight.dim(0) % 2 == 0 && x.dtype == weight.dtype && is_model_dtype(x.dtype) &&
                  has_dense_rows(x) && weight.is_contiguous(),
              "{} times {}", x.describe(), weight.describe());
  context.device.linear_gelu_tanh_mul(x, weight, gate_up, out);
  return out;
}

void softcap(Context& context, const Tensor& x, float cap) {
  LORAX_CHECK(x.dtype == DType::kFloat32 && x.is_contiguous());
  if (cap > 0.0f) context.device.softcap(x, cap);
}

Tensor gather_rows(Context& context, const Tensor& x, const Tensor& indices) {
  LORAX_CHECK(x.rank == 2 && indices.rank == 1 && indices.dtype == DType::kInt32);
  Tensor out = context.workspace.take(x.dtype, {indices.dim(0), x.dim(1)});
  context.device.gather_rows(x, indices, out);
  return out;
}

}  // namespace lorax::ops
