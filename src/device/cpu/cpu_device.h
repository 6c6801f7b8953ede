// The Device of this machine's own cores: vectors through Highway, threads through ThreadPool.
#pragma once

#include <string>

#include "base/thread_pool.h"
#include "device/cpu/attention.h"
#include "device/cpu/lora.h"
#include "device/cpu/matmul.h"
#include "device/cpu/sampling.h"
#include "device/device.h"

namespace lorax::cpu {

// Calls come from one thread at a time. Kernels have finished when they return.
class CpuDevice final : public Device {
 public:
  explicit CpuDevice(int threads)
      : pool_(threads), matmul_(pool_), lora_(pool_), attention_(pool_), sampling_(pool_) {}

  std::string describe() const override;

  uint64_t total_memory() const override;
  uint64_t available_memory() const override;
  void* allocate(size_t bytes) override;
  void deallocate(void* data, size_t bytes) override;
  void copy_from_host(void* to, const void* from, size_t bytes) override;
  void copy_to_host(void* to, const void* from, size_t bytes) override;
  void copy(void* to, const void* from, size_t bytes) override;
  void synchronize() override {}
  bool memory_is_host() const override { return true; }

  void embedding(const Tensor& ids, const Tensor& table, float scale, const Tensor& out) override;
  void token_embedding(const Tensor& ids, const Tensor& tokens, const Tensor& rows, float scale,
                       const Tensor& out) override;
  void fill_in_ids(const Tensor& ids, const Tensor& from) override;
  void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) override;
  void rms_norm_add(const Tensor& x, const Tensor& weight, float eps,
                    const Tensor& residual) override;
  void linear(const Tensor& x, const Tensor& weight, const Tensor& out) override;
  void lora(const Tensor& x, LoraTargets targets, const LoraRows& rows, const Tensor& out) override;
  void lora_embedding(const Tensor& ids, float multiplier, int64_t module, const LoraRows& rows,
                      const Tensor& out) override;
  void add_silu(const Tensor& x, const Tensor& h, const Tensor& bias, const Tensor& out) override;
  void rotary(const Tensor& x, const Tensor& positions, const Tensor& cos,
              const Tensor& sin) override;
  void store_kv(const Tensor& k, const Tensor& v, const Tensor& slots, const PagedKv& kv) override;
  void attention(const Tensor& q, const PagedKv& kv, const AttentionBatch& batch,
                 const AttentionOptions& options, const Tensor& out) override;
  void gelu_tanh_mul(const Tensor& gate_up, const Tensor& out) override;
  void softcap(const Tensor& x, float cap) override;
  void gather_rows(const Tensor& x, const Tensor& indices, const Tensor& out) override;
  void scatter_columns(const Tensor& from, const Tensor& columns, const Tensor& out) override;

  void row_statistics(const Tensor& logits, const Tensor& ids, RowStatistics* out) override;
  void edit_logits(const Tensor& logits, DeviceList<const EditedRow> rows, const LogitEdit* edits,
                   float* saved) override;
  void restore_logits(const Tensor& logits, DeviceList<const EditedRow> rows,
                      const LogitEdit* edits, const float* saved) override;
  void sample(const Tensor& logits, DeviceList<const SampledRow> rows, const Tensor& ids) override;
  void top_logits(const Tensor& logits, DeviceList<const TopRow> rows, TopLogit* out) override;
  void gather_logits(const Tensor& logits, const Tensor& ids, const Tensor& out) override;

 private:
  // Calls function(row) for all rows, several rows per job so that a job is worth handing out.
  template <typename Function>
  void for_rows(int64_t rows, int64_t row_elements, const Function& function);

  ThreadPool pool_;
  Matmul matmul_;
  Lora lora_;
  Attention attention_;
  Sampling sampling_;
};

}  // namespace lorax::cpu
