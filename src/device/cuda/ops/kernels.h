// The launches of all kernels: raw pointers, sizes and a stream, nothing of the host's types. Sizes
// and strides are in elements. A launch reports nothing; CudaDevice asks for the error after it.
// Formulas: device/device.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "device/cuda/runtime/stream.h"
#include "device/lora_entry.h"
#include "device/sampling.h"

namespace lorax::cuda {

// Rows of a matrix; `stride` apart.
struct Rows {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t stride = 0;
};

// ---- elementwise.cu, norm.cu ------------------------------------------------------------------

void embedding(Stream stream, const int32_t* ids, Rows table, int64_t rows, int64_t width,
               float scale, Rows out);
void token_embedding(Stream stream, const int32_t* ids, const int32_t* tokens, int64_t n_tokens,
                     Rows table, int64_t rows, int64_t width, float scale, Rows out);
void scatter_columns(Stream stream, Rows from, const int32_t* columns, int64_t rows,
                     int64_t n_columns, Rows out);
void fill_in_ids(Stream stream, int32_t* ids, int64_t n, const int32_t* from);
// residual false: out = norm(x); true: out (float32) += norm(x).
void rms_norm(Stream stream, Rows x, const float* weight, int64_t rows, int64_t width, float eps,
              Rows out, bool add);
// residual (float32) += norm(x), out = norm(residual) with the next weight.
void rms_norm_add_norm(Stream stream, Rows x, const float* weight, int64_t rows, int64_t width,
                       float eps, Rows residual, const float* next_weight, float next_eps,
                       Rows out);
void rotary(Stream stream, Rows x, int64_t rows, int64_t heads, int64_t head_size,
            const int32_t* positions, const float* cos, const float* sin);
// Rotates the queries in place, and the keys on their way to the pages, where the values go as they
// are. A negative slot is not written.
struct RotaryStoreArgs {
  Rows q;  // [rows, heads, head_size]
  Rows k;  // [rows, kv_heads, head_size], likewise v
  Rows v;
  int64_t rows = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_size = 0;
  const int32_t* positions = nullptr;
  const float* cos = nullptr;
  const float* sin = nullptr;
  const int64_t* slots = nullptr;
  void* key = nullptr;  // pages [slots, kv_heads, head_size], likewise value
  void* value = nullptr;
};
void rotary_store(Stream stream, const RotaryStoreArgs& args);
void gelu_tanh_mul(Stream stream, Rows gate_up, Rows out, int64_t rows, int64_t width);
void softcap(Stream stream, float* x, int64_t n, float cap);
void add_silu(Stream stream, Rows x, Rows h, const void* bias, Rows out, int64_t rows,
              int64_t width);
// Copies `row_bytes` of row t of `from` (rows from_stride bytes apart) to row slots[t] of `to`
// (dense rows); a negative slot is skipped.
void scatter_rows(Stream stream, const void* from, int64_t from_stride, const int64_t* slots,
                  int64_t rows, int64_t row_bytes, void* to);
// Copies row indices[i] of `from` to row i of `to`; strides in bytes.
void gather_rows(Stream stream, const void* from, int64_t from_stride, const int32_t* indices,
                 int64_t rows, int64_t row_bytes, void* to, int64_t to_stride);

// ---- skinny_linear.cu, general_linear.cu ------------------------------------------------------

struct LinearArgs {
  Rows x;                        // [rows, n]
  const void* weight = nullptr;  // [m, n] dense, dtype of x
  Rows out;                      // [rows, m]
  int64_t rows = 0;
  int64_t m = 0;
  int64_t n = 0;
};

// A product that streams the weights once, for bfloat16 or float16 of at most kSkinnyRows rows, n a
// multiple of 8, x and weight rows aligned to 16 bytes. A row's result does not depend on the other
// rows.
inline constexpr int64_t kSkinnyRows = 16;
void skinny_linear(Stream stream, const LinearArgs& args);
// The same for at most kGatedRows rows, then gelu_tanh_mul of the rounded product: weight [m, n] is
// gate | up, out [rows, m / 2] of x's dtype.
inline constexpr int64_t kGatedRows = 8;
void skinny_linear_gelu_tanh_mul(Stream stream, const LinearArgs& args);

// Any shape, stride and alignment; slow.
void general_linear(cudaStream_t stream, const LinearArgs& args);

// ---- attention_*.cu ---------------------------------------------------------------------------

struct AttentionArgs {
  DType dtype = DType::kFloat32;  // of q, pages and out
  const void* q = nullptr;        // [T, heads, d], rows q_stride apart
  int64_t q_stride = 0;
  const void* key = nullptr;  // pages [blocks, block_size, kv_heads, d]
  const void* value = nullptr;
  void* out = nullptr;  // [T, heads, d] dense
  const int32_t* cu_seqlens_q = nullptr;
  const int32_t* kv_lengths = nullptr;
  const int32_t* block_tables = nullptr;
  int max_blocks = 0;  // columns of block_tables
  int block_size = 0;
  int64_t blocks = 0;  // of the pools
  int sequences = 0;
  int64_t tokens = 0;  // T
  int heads = 0;
  int kv_heads = 0;
  int head_size = 0;
  int max_q = 0;
  int max_kv = 0;
  float scale = 1.0f;
  float softcap = 0.0f;
  int window = 0;
};

// float32, any shape.
void attention_float32(cudaStream_t stream, const AttentionArgs& args);

// bfloat16 or float16: the sequences of more than one query row.
void attention_prefill(cudaStream_t stream, const AttentionArgs& args);

// The same on a GPU of compute capability 9.0. False, and nothing is done, if it does not take this
// head size (64, 128 or 256), block size (a multiple of 16) or driver.
bool attention_prefill_hopper(cudaStream_t stream, const AttentionArgs& args);

// bfloat16 or float16: the sequences of exactly one query row; the output of one without keys is
// zero. Their keys are cut into parts, whose results lie in `scratch` until the last of them to end
// merges them. `tickets`: kDecodeTickets zeros, which are zeros again at the end.
inline constexpr int64_t kDecodeTickets = 16384;
void attention_decode(Stream stream, const AttentionArgs& args, void* scratch, size_t scratch_bytes,
                      uint32_t* tickets);

// ---- lora_*.cu --------------------------------------------------------------------------------

inline constexpr int kMaxLoraRank = 512;
inline constexpr int kMaxLoraTargets = 3;  // q, k, v
inline constexpr int kMaxLoraParts = 8;

// Handed to kernels as it is. A x comes in `parts` parts, whose sum it is: one for each `chunk` of
// its n terms, or one of all.
struct LoraArgs {
  Rows x;  // [T, n]
  int64_t n = 0;
  int64_t chunk = 0;
  const int32_t* ids = nullptr;  // [T] of an embedding, instead of x; otherwise null
  float multiplier = 1.0f;       // of an embedding
  Rows out;
  LoraTarget targets[kMaxLoraTargets];
  int n_targets = 0;
  const int32_t* rows = nullptr;      // LoraRows
  const int32_t* segments = nullptr;  // [n_segments + 1]
  const int32_t* slots = nullptr;
  int n_segments = 0;
  int first = 0;  // of `rows`: those of this launch, [first, last)
  int last = 0;
  const LoraEntry* entries = nullptr;  // [slots, modules], on the device
  int64_t modules = 0;
  float* h = nullptr;  // [parts, n_targets, last - first, kMaxLoraRank]
  int parts = 1;
};

// h = A x, not yet times scale. bfloat16 or float16, n a multiple of 8, rows of x aligned to 16
// bytes; chunk a multiple of kLoraChunkUnit. The same sums for any number of parts that it may
// have.
inline constexpr int64_t kLoraChunkUnit = 512;
void lora_shrink(Stream stream, const LoraArgs& args);
// Any x; one part.
void lora_shrink_general(cudaStream_t stream, const LoraArgs& args);

// out = gain * (out + scale * h B + bias), h looked up in A if there are ids.
void lora_expand(Stream stream, const LoraArgs& args);                // B bfloat16 or float16
void lora_expand_float32(cudaStream_t stream, const LoraArgs& args);  // all float32

// ---- linear_hopper.cu -------------------------------------------------------------------------

// A product that streams the weights once, on compute capability 9.0: bfloat16, more than
// kGatedRows and at most kHopperRows rows, all rows and pointers aligned to 16 bytes. With targets
// in `lora`, whose A x lora_shrink has left in its h, followed by what lora_expand does, to the
// same bits. A row's result does not depend on the other rows. False, and nothing is done, for
// other shapes, GPUs or drivers.
inline constexpr int64_t kHopperRows = 64;
bool takes_linear_hopper(const Stream& stream, const LinearArgs& args, const LoraArgs& lora);
bool linear_hopper(Stream stream, const LinearArgs& args, const LoraArgs& lora);

// ---- gemm_hopper.cu ---------------------------------------------------------------------------

// Room for sums that are cut, aligned to 16 bytes, and kGemmFlags zeros, which are zeros again at
// the end.
struct GemmRoom {
  void* parts = nullptr;
  size_t bytes = 0;
  uint32_t* flags = nullptr;
};
inline constexpr int64_t kGemmFlags = 1024;
// From so many rows on it is the faster one of a gate and up, and of none other, on an H200.
inline constexpr int64_t kGemmRows = 512;

// A product on compute capability 9.0: bfloat16, more than kHopperRows rows, all rows and pointers
// aligned to 16 bytes. False, and nothing is done, for other shapes, GPUs or drivers.
bool takes_gemm_hopper(const Stream& stream, const LinearArgs& args, const GemmRoom& room);
bool gemm_hopper(Stream stream, const LinearArgs& args, const GemmRoom& room);
// The same, then gelu_tanh_mul of the rounded product: weight [m, n] is gate | up, m a multiple of
// 256, out [rows, m / 2].
bool gemm_hopper_gelu_tanh_mul(Stream stream, const LinearArgs& args, const GemmRoom& room);

// ---- row_statistics.cu, sampling.cu -----------------------------------------------------------

struct LogitRows {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t width = 0;
  int64_t stride = 0;
};

size_t statistics_scratch_bytes(int64_t rows, int64_t width);
void row_statistics(cudaStream_t stream, const LogitRows& logits, void* scratch, int32_t* ids,
                    RowStatistics* out);
void gather_logits(cudaStream_t stream, const LogitRows& logits, const int32_t* ids, float* out);
void edit_logits(cudaStream_t stream, const LogitRows& logits, DeviceList<const EditedRow> rows,
                 const LogitEdit* edits, float* saved);
void restore_logits(cudaStream_t stream, const LogitRows& logits, DeviceList<const EditedRow> rows,
                    const LogitEdit* edits, const float* saved);
void sample(cudaStream_t stream, const LogitRows& logits, DeviceList<const SampledRow> rows,
            int32_t* ids);
void top_logits(cudaStream_t stream, const LogitRows& logits, DeviceList<const TopRow> rows,
                TopLogit* out);

// Let the kernels above use the shared memory they need on the current device. Once per device.
cudaError_t prepare_prefill();
cudaError_t prepare_prefill_hopper();  // only on compute capability 9.0
cudaError_t prepare_decode();
cudaError_t prepare_skinny();
cudaError_t prepare_linear_hopper();  // only on compute capability 9.0
cudaError_t prepare_gemm_hopper();    // only on compute capability 9.0

}  // namespace lorax::cuda
