// A Device that computes nothing: a forward run on it, over Workspace::measuring(), finds how much
// workspace the real step needs without knowing the model.
#pragma once

#include "device/device.h"

namespace lorax {

class DryRunDevice : public Device {
 public:
  std::string describe() const override { return "dry run"; }
  uint64_t total_memory() const override { return UINT64_MAX; }
  uint64_t available_memory() const override { return UINT64_MAX; }
  void* allocate(size_t) override { return nullptr; }
  void deallocate(void*, size_t) override {}
  void copy_from_host(void*, const void*, size_t) override {}
  void copy_to_host(void*, const void*, size_t) override {}
  void copy(void*, const void*, size_t) override {}
  void synchronize() override {}
  bool memory_is_host() const override { return false; }

  void embedding(const Tensor&, const Tensor&, float, const Tensor&) override {}
  void token_embedding(const Tensor&, const Tensor&, const Tensor&, float, const Tensor&) override {
  }
  void fill_in_ids(const Tensor&, const Tensor&) override {}
  void rms_norm(const Tensor&, const Tensor&, float, const Tensor&) override {}
  void rms_norm_add(const Tensor&, const Tensor&, float, const Tensor&) override {}
  void linear(const Tensor&, const Tensor&, const Tensor&) override {}
  void lora(const Tensor&, LoraTargets, const LoraRows&, const Tensor&) override {}
  void lora_embedding(const Tensor&, float, int64_t, const LoraRows&, const Tensor&) override {}
  void add_silu(const Tensor&, const Tensor&, const Tensor&, const Tensor&) override {}
  void rotary(const Tensor&, const Tensor&, const Tensor&, const Tensor&) override {}
  void store_kv(const Tensor&, const Tensor&, const Tensor&, const PagedKv&) override {}
  void attention(const Tensor&, const PagedKv&, const AttentionBatch&, const AttentionOptions&,
                 const Tensor&) override {}
  void gelu_tanh_mul(const Tensor&, const Tensor&) override {}
  void softcap(const Tensor&, float) override {}
  void gather_rows(const Tensor&, const Tensor&, const Tensor&) override {}
  void scatter_columns(const Tensor&, const Tensor&, const Tensor&) override {}

  void row_statistics(const Tensor&, const Tensor&, RowStatistics*) override {}
  void edit_logits(const Tensor&, DeviceList<const EditedRow>, const LogitEdit*, float*) override {}
  void restore_logits(const Tensor&, DeviceList<const EditedRow>, const LogitEdit*,
                      const float*) override {}
  void sample(const Tensor&, DeviceList<const SampledRow>, const Tensor&) override {}
  void top_logits(const Tensor&, DeviceList<const TopRow>, TopLogit*) override {}
  void gather_logits(const Tensor&, const Tensor&, const Tensor&) override {}
};

}  // namespace lorax
