// The Device of one NVIDIA GPU of compute capability 8.0 or newer.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <string>

#include "device/cuda/megakernel/program_recorder.h"
#include "device/cuda/ops/kernels.h"
#include "device/cuda/ops/launcher.h"
#include "device/cuda/runtime/transfers.h"
#include "device/device.h"

namespace lorax::cuda {

// Kernels and copies run on one stream, in the order of the calls, which one thread makes at a
// time; memory, upload() and download() may be asked for by any. All calls throw Error if the GPU
// fails.
class CudaDevice final : public Device {
 public:
  // memory_fraction: DeviceOptions::cuda_memory_fraction. Throws Error if there is no such GPU or
  // it is too old.
  CudaDevice(int index, double memory_fraction);
  ~CudaDevice() override;
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  std::string describe() const override;

  uint64_t total_memory() const override { return properties_.totalGlobalMem; }
  uint64_t memory_limit() const override;
  uint64_t available_memory() const override;
  void* allocate(size_t bytes) override;
  void deallocate(void* data, size_t bytes) override;
  void copy_from_host(void* to, const void* from, size_t bytes) override;
  void copy_to_host(void* to, const void* from, size_t bytes) override;
  void begin_copy_to_host(void* to, const void* from, size_t bytes) override;
  void copy(void* to, const void* from, size_t bytes) override;
  void synchronize() override;
  DeviceProfile profile() const override {
    // Rows cost little beside the weights, which every step reads.
    return {
        .is_asynchronous = true, .step_rows = 2048, .sequences = 256, .crowd = 0, .head_rows = 256};
  }
  void upload(void* to, const void* from, size_t bytes) override;
  void download(void* to, const void* from, size_t bytes) override;
  void* allocate_host(size_t bytes) override;
  void deallocate_host(void* data, size_t bytes) override;
  std::unique_ptr<DeviceEvent> make_event() override;
  std::unique_ptr<DevicePool> make_pool(size_t bytes) override;
  bool can_capture() const override { return true; }
  std::unique_ptr<DeviceGraph> capture(const std::function<void()>& work) override;
  void replay(DeviceGraph& graph) override;
  bool memory_is_host() const override { return false; }

  void embedding(const Tensor& ids, const Tensor& table, float scale, const Tensor& out) override;
  void token_embedding(const Tensor& ids, const Tensor& tokens, const Tensor& rows, float scale,
                       const Tensor& out) override;
  void fill_in_ids(const Tensor& ids, const Tensor& from) override;
  void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) override;
  void rms_norm_add(const Tensor& x, const Tensor& weight, float eps,
                    const Tensor& residual) override;
  void rms_norm_add_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& residual,
                         const Tensor& next_weight, float next_eps, const Tensor& out) override;
  void linear(const Tensor& x, const Tensor& weight, const Tensor& out) override;
  void lora(const Tensor& x, LoraTargets targets, const LoraRows& rows, const Tensor& out) override;
  void linear_lora(const Tensor& x, const Tensor& weight, LoraTargets targets, const LoraRows& rows,
                   const Tensor& out) override;
  void lora_embedding(const Tensor& ids, float multiplier, int64_t module, const LoraRows& rows,
                      const Tensor& out) override;
  void add_silu(const Tensor& x, const Tensor& h, const Tensor& bias, const Tensor& out) override;
  void rotary(const Tensor& x, const Tensor& positions, const Tensor& cos,
              const Tensor& sin) override;
  void store_kv(const Tensor& k, const Tensor& v, const Tensor& slots, const PagedKv& kv) override;
  void rotary_store_kv(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& positions,
                       const Tensor& cos, const Tensor& sin, const Tensor& slots,
                       const PagedKv& kv) override;
  void attention(const Tensor& q, const PagedKv& kv, const AttentionBatch& batch,
                 const AttentionOptions& options, const Tensor& out) override;
  void gelu_tanh_mul(const Tensor& gate_up, const Tensor& out) override;
  void linear_gelu_tanh_mul(const Tensor& x, const Tensor& weight, const Tensor& gate_up,
                            const Tensor& out) override;
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
  // CUDA's current device belongs to the thread.
  void use() const;
  // Before anything that no program takes in: what was recorded comes first.
  void begin();
  ProgramLimits program_limits() const;
  // Records the operation, or launches it.
  void perform(const Operation& operation);
  // Whether it runs the machine code built for Hopper's own instructions (sm_90a).
  bool is_hopper() const { return properties_.major == 9; }

  int index_;
  double memory_fraction_;
  cudaDeviceProp properties_{};
  cudaStream_t main_stream_ = nullptr;
  cudaStream_t capture_stream_ = nullptr;
  Stream stream_;  // of the two, the one that kernels and copies go to
  std::unique_ptr<Transfers> transfers_;
  // For what passes between the kernels of one call (partial sums of cuBLASLt and of attention, A x
  // of adapters): never in use by two calls, as the stream runs one kernel after the other.
  void* scratch_ = nullptr;
  uint32_t* tickets_ = nullptr;  // of decode attention
  ProgramSync* program_sync_ = nullptr;
  ProgramRecorder* recorder_ = nullptr;  // while a graph is captured
  std::unique_ptr<Launcher> launcher_;
};

}  // namespace lorax::cuda
