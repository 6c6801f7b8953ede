// What models call. Each function checks shapes and types once, takes its output from the
// workspace and calls the device; device/device.h has the formulas. A wrong shape here is a bug in
// a model, never the user's: it is a CHECK.
#pragma once

#include "device/device.h"
#include "device/workspace.h"

namespace lorax {

// Where a forward runs and where its intermediates live.
struct Context {
  Device& device;
  Workspace& workspace;
};

namespace ops {

// ids [T] int32, table [V, D] -> [T, D] float32.
Tensor embedding(Context& context, const Tensor& ids, const Tensor& table, float scale);
void embedding_into(Context& context, const Tensor& ids, const Tensor& table, float scale,
                    const Tensor& out);

// Rows of some tokens' own, into what embedding gave. tokens [n] int32, rows [n, D].
void token_embedding_into(Context& context, const Tensor& ids, const Tensor& tokens,
                          const Tensor& rows, float scale, const Tensor& out);

// x [T, D], weight [D] float32 -> [T, D] of `out_dtype`.
Tensor rms_norm(Context& context, const Tensor& x, const Tensor& weight, float eps,
                DType out_dtype);
void rms_norm_into(Context& context, const Tensor& x, const Tensor& weight, float eps,
                   const Tensor& out);

// residual [T, D] float32 += rms_norm(x [T, D]).
void rms_norm_add(Context& context, const Tensor& x, const Tensor& weight, float eps,
                  const Tensor& residual);

// rms_norm_add, then the next norm of the residual -> out [T, D].
void rms_norm_add_norm_into(Context& context, const Tensor& x, const Tensor& weight, float eps,
                            const Tensor& residual, const Tensor& next_weight, float next_eps,
                            const Tensor& out);

// x [T, n], weight [m, n] -> [T, m] of `out_dtype` (float32 or the dtype of x).
Tensor linear(Context& context, const Tensor& x, const Tensor& weight, DType out_dtype);
void linear_into(Context& context, const Tensor& x, const Tensor& weight, const Tensor& out);

// Columns of some tokens' own, into the logits out [T, V] float32 that linear gave: column
// tokens[i] becomes x * rows[i]. x [T, D], tokens [n] int32, rows [n, D]. Takes workspace for
// kTokenColumns columns at most, and gives it back.
inline constexpr int64_t kTokenColumns = 64;
void token_columns_into(Context& context, const Tensor& x, const Tensor& tokens, const Tensor& rows,
                        const Tensor& out);

// The low-rank parts of the rows' adapters: x [T, n], out [T, m] in place, after linear.
void lora(Context& context, const Tensor& x, LoraTargets targets, const LoraRows& rows,
          const Tensor& out);
// linear_into, then lora.
void linear_lora_into(Context& context, const Tensor& x, const Tensor& weight, LoraTargets targets,
                      const LoraRows& rows, const Tensor& out);
// ids [T] int32, out [T, D] float32 in place, after embedding.
void lora_embedding(Context& context, const Tensor& ids, float multiplier, int64_t module,
                    const LoraRows& rows, const Tensor& out);

// x, h [T, D], bias [D] -> x + silu(h + bias) [T, D].
Tensor add_silu(Context& context, const Tensor& x, const Tensor& h, const Tensor& bias);

// x [T, heads, d] in place; positions [T] int32; cos, sin [P, d/2] float32.
void rotary(Context& context, const Tensor& x, const Tensor& positions, const Tensor& cos,
            const Tensor& sin);

// q [T, H, d] in place, k and v [T, K, d] -> pages; slots as below. k is no more of use.
void rotary_store_kv(Context& context, const Tensor& q, const Tensor& k, const Tensor& v,
                     const Tensor& positions, const Tensor& cos, const Tensor& sin,
                     const Tensor& slots, const PagedKv& kv);

// k, v [T, K, d] -> pages; slots [T] int64, -1 = nowhere.
void store_kv(Context& context, const Tensor& k, const Tensor& v, const Tensor& slots,
              const PagedKv& kv);

// q [T, H, d] -> [T, H * d].
Tensor attention(Context& context, const Tensor& q, const PagedKv& kv, const AttentionBatch& batch,
                 const AttentionOptions& options);

// gate_up [T, 2F] -> [T, F].
Tensor gelu_tanh_mul(Context& context, const Tensor& gate_up);

// x [T, n], weight [2F, n] (gate | up) -> [T, F].
Tensor linear_gelu_tanh_mul(Context& context, const Tensor& x, const Tensor& weight);

// x float32 in place; no cap (0) does nothing.
void softcap(Context& context, const Tensor& x, float cap);

// x [T, D], indices [N] int32 -> [N, D].
Tensor gather_rows(Context& context, const Tensor& x, const Tensor& indices);

}  // namespace ops
}  // namespace lorax
