// The one interface to the hardware. Everything above this floor is written against Device; what
// lies below is reached through make_device() and never included.
//
// Kernels take their outputs as arguments and allocate nothing. Arguments have been checked by
// ops/; here shapes are preconditions. Letters: T tokens (rows of this step), B sequences, H query
// heads, K key/value heads, d head size, D hidden size, F intermediate size, V vocabulary.
// "model dtype" is float32, bfloat16 or float16. All sums are float32.
//
// Row independence: on the CPU, each row of an output is a function of that row's inputs alone, to
// the last bit, whatever other rows are in the call and however many threads run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "device/device_memory.h"
#include "device/lora.h"
#include "device/sampling.h"
#include "device/tensor.h"

namespace lorax {

// Work of a device, kept to be done again by one call. Must not outlive its Device.
class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;
};

// One layer's pages. Token slot s lies in page s / block_size at row s % block_size.
struct PagedKv {
  Tensor key;    // [blocks, block_size, K, d], model dtype
  Tensor value;  // same
};

// The sequences of one step, as attention sees them. Sequence b owns query rows
// [cu_seqlens_q[b], cu_seqlens_q[b+1]); they are the last of its kv_lengths[b] tokens, so the
// absolute position of its i-th query row is kv_lengths[b] - rows + i. Its token at position p lies
// in page block_tables[b][p / block_size].
struct AttentionBatch {
  Tensor cu_seqlens_q;  // [B+1] int32
  Tensor kv_lengths;    // [B] int32: cached tokens + tokens of this step
  Tensor block_tables;  // [B, max_blocks] int32
  int max_q = 0;        // most query rows of a sequence
  int max_kv = 0;       // no kv_length is larger
};

struct AttentionOptions {
  float scale = 1.0f;    // multiplies q.k
  float softcap = 0.0f;  // c: scores become c * tanh(score / c); 0: no cap
  int window = 0;        // a query at p sees keys in (p - window, p]; 0: all keys up to p
};

// What a device is good at, from which those above take the sizes of their steps. The defaults are
// a CPU's, which multiplies rows hardly faster than it reads weights.
struct DeviceProfile {
  // Kernels run beside the host: it is worth while to ask for them ahead of time, and the cores
  // have little else to do.
  bool is_asynchronous = false;
  // Larger steps gain nothing, and each keeps all streams waiting.
  int64_t step_rows = 256;
  // More in one decode step gain nothing.
  int64_t sequences = 64;
  // Fewer rows take no longer than reading the weights once; 0: no number of rows is worth a step
  // of its own, which would read the weights once more.
  int64_t crowd = 16;
  // Of one call of the head, which reads it once.
  int64_t head_rows = 64;
};

class Device : public DeviceMemory {
 public:
  // For people: hardware, instruction set, threads.
  virtual std::string describe() const = 0;
  virtual DeviceProfile profile() const { return {}; }

  // Whether capture() gives anything.
  virtual bool can_capture() const { return false; }
  // Calls `work` and keeps the kernels and copies that it asks for, with their arguments as they
  // are, instead of doing them. Every shape must have run once before, outside. Null, and `work`
  // not called, where the device keeps nothing.
  virtual std::unique_ptr<DeviceGraph> capture(const std::function<void()>& work);
  // Does what a graph of this device keeps, in the order of all its work.
  virtual void replay(DeviceGraph& graph);

  // out[t] = float32(table[ids[t]]) * scale.
  // ids [T] int32 in [0, V); table [V, D] model dtype; out [T, D] float32.
  virtual void embedding(const Tensor& ids, const Tensor& table, float scale,
                         const Tensor& out) = 0;

  // Rows that some tokens have of their own: where ids[t] is tokens[i],
  // out[t] = float32(rows[i]) * scale; other rows of out stay.
  // ids [T] int32; tokens [n] int32, ascending; rows [n, D] model dtype; out [T, D] float32.
  virtual void token_embedding(const Tensor& ids, const Tensor& tokens, const Tensor& rows,
                               float scale, const Tensor& out) = 0;

  // Puts in what a sampler has chosen meanwhile: an id of -1 - i becomes from[i], or 0 if that is
  // negative (no token); others stay. ids [T], from [N] int32.
  virtual void fill_in_ids(const Tensor& ids, const Tensor& from) = 0;

  // out = x / sqrt(mean(x^2) + eps) * weight, per row; the mean and the products in float32.
  // x [T, D] float32 or model dtype; weight [D] float32 (already 1 + w); out [T, D] float32 or
  // model dtype, rounded once.
  virtual void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) = 0;

  // residual += rms_norm(x, weight, eps), not rounded in between. residual [T, D] float32.
  virtual void rms_norm_add(const Tensor& x, const Tensor& weight, float eps,
                            const Tensor& residual) = 0;

  // rms_norm_add(x, weight, eps, residual), then rms_norm(residual, next_weight, next_eps, out).
  virtual void rms_norm_add_norm(const Tensor& x, const Tensor& weight, float eps,
                                 const Tensor& residual, const Tensor& next_weight, float next_eps,
                                 const Tensor& out);

  // out = x * weight^T. x [T, n] and weight [m, n] contiguous rows, model dtype both;
  // out [T, m] float32 or model dtype, rounded once.
  virtual void linear(const Tensor& x, const Tensor& weight, const Tensor& out) = 0;

  // For every row that has an adapter and every target that its adapter changes, LoraEntry's
  // formula over the target's columns of `out`, which holds x * weight^T. A x and B (A x) are
  // float32 sums over ascending indices; the result is rounded once to the dtype of out.
  // x [T, n] model dtype; out [T, m] float32 or model dtype; rows of both may be strided.
  virtual void lora(const Tensor& x, LoraTargets targets, const LoraRows& rows,
                    const Tensor& out) = 0;

  // linear(x, weight, out), then lora(x, targets, rows, out).
  virtual void linear_lora(const Tensor& x, const Tensor& weight, LoraTargets targets,
                           const LoraRows& rows, const Tensor& out);

  // lora for an embedding, whose A x is A's row of the token: out = gain * (out + multiplier *
  // scale * B A[ids[t]]). ids [T] int32; out [T, D] float32, holding table[ids] * multiplier.
  // Adapters of embeddings have no bias.
  virtual void lora_embedding(const Tensor& ids, float multiplier, int64_t module,
                              const LoraRows& rows, const Tensor& out) = 0;

  // out = x + silu(h + bias), silu(z) = z / (1 + e^-z): a block of a Medusa head.
  // x, h, out [T, D], whose rows may be strided; bias [D]; model dtype all.
  virtual void add_silu(const Tensor& x, const Tensor& h, const Tensor& bias,
                        const Tensor& out) = 0;

  // Rotates in place, halves paired (i, i + d/2): x1' = x1 cos - x2 sin, x2' = x2 cos + x1 sin.
  // x [T, heads, d] model dtype, rows may be strided; positions [T] int32;
  // cos, sin [max_position, d/2] float32.
  virtual void rotary(const Tensor& x, const Tensor& positions, const Tensor& cos,
                      const Tensor& sin) = 0;

  // Writes row t to slot slots[t] of the pages; a slot of -1 is not written.
  // k, v [T, K, d], rows may be strided; slots [T] int64.
  virtual void store_kv(const Tensor& k, const Tensor& v, const Tensor& slots,
                        const PagedKv& kv) = 0;

  // rotary of q and k, then store_kv of k and v. What k holds afterwards has no meaning.
  virtual void rotary_store_kv(const Tensor& q, const Tensor& k, const Tensor& v,
                               const Tensor& positions, const Tensor& cos, const Tensor& sin,
                               const Tensor& slots, const PagedKv& kv);

  // Causal softmax attention of every query row over its sequence's pages (which already hold
  // this step's keys and values). A sequence may have no keys at all (a row that fills up a batch):
  // its output has no meaning. q [T, H, d], rows may be strided; out [T, H, d] contiguous,
  // model dtype. Query head h reads key/value head h / (H / K). d is a multiple of 8, at most 256.
  virtual void attention(const Tensor& q, const PagedKv& kv, const AttentionBatch& batch,
                         const AttentionOptions& options, const Tensor& out) = 0;

  // out = gelu_tanh(gate) * up with gate_up = [gate | up].
  // gelu_tanh(x) = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
  // gate_up [T, 2F], out [T, F], model dtype; products in float32, rounded once.
  virtual void gelu_tanh_mul(const Tensor& gate_up, const Tensor& out) = 0;

  // linear(x, weight, gate_up), then gelu_tanh_mul(gate_up, out). gate_up [T, 2F] is room that the
  // call may use; what it holds afterwards has no meaning.
  virtual void linear_gelu_tanh_mul(const Tensor& x, const Tensor& weight, const Tensor& gate_up,
                                    const Tensor& out);

  // x = cap * tanh(x / cap), in place. x float32, contiguous.
  virtual void softcap(const Tensor& x, float cap) = 0;

  // out[i] = x[indices[i]]. x [T, D], out [N, D] of one dtype; indices [N] int32.
  virtual void gather_rows(const Tensor& x, const Tensor& indices, const Tensor& out) = 0;

  // out[t, columns[i]] = from[t, i]. from [T, n] and out [T, m] float32, of dense rows; columns [n]
  // int32, none twice.
  virtual void scatter_columns(const Tensor& from, const Tensor& columns, const Tensor& out) = 0;

  // ---- Sampling: logits are [N, V] float32, rows may be strided. A row's result is a function of
  // that row and its records alone, on every device. Both devices give the same, but for ids whose
  // place in a cut or in the draw is a matter of rounding.

  // What each row holds, into out [N], and its argmax once more into ids [N] int32. Sums of blocks
  // in float32, sums of those in double.
  virtual void row_statistics(const Tensor& logits, const Tensor& ids, RowStatistics* out) = 0;

  // Changes the logits that `edits` names and keeps what was there in saved[i] for edit i. With
  // x = logit + (id is green ? delta : 0), the logit becomes, less the same gain,
  //   (seen ? (x > 0 ? x / repetition : x * repetition) : x)
  //       - count * frequency - (count > 0 ? presence : 0) + bias,
  // at most the largest finite float. No row twice.
  virtual void edit_logits(const Tensor& logits, DeviceList<const EditedRow> rows,
                           const LogitEdit* edits, float* saved) = 0;
  // Puts back what edit_logits() has kept.
  virtual void restore_logits(const Tensor& logits, DeviceList<const EditedRow> rows,
                              const LogitEdit* edits, const float* saved) = 0;

  // Draws one token for each of `rows`, into ids[row] (ids [N] int32); other rows are not touched.
  // A row that is not usable (RowStatistics) gives -1. From all ids whose logit is above -infinity,
  // each cut over the softmax of logit / temperature of what the one before it has left:
  //   top_k      those whose logit is at least the k-th largest (ties are kept);
  //   top_p      in descending order of logit, then ascending id: the smallest set that reaches
  //              top_p; one at least;
  //   typical_p  in ascending order of |-log p - entropy|: up to the first that reaches typical_p,
  //              and those equal to it;
  //   min_p      those at least min_p times as likely as the likeliest.
  // Then the first id, in ascending order, at which the running sum of probabilities exceeds unit
  // times their sum. Logits are not changed.
  virtual void sample(const Tensor& logits, DeviceList<const SampledRow> rows,
                      const Tensor& ids) = 0;

  // The largest logits of some rows, in no particular order; among equals the lowest ids. Only
  // those above -infinity: places left get id -1. count <= V.
  virtual void top_logits(const Tensor& logits, DeviceList<const TopRow> rows, TopLogit* out) = 0;

  // out[n] = logits[n, ids[n]]; NaN where ids[n] is -1. ids [N] int32, out [N] float32.
  virtual void gather_logits(const Tensor& logits, const Tensor& ids, const Tensor& out) = 0;
};

}  // namespace lorax
