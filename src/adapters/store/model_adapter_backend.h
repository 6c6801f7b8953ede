// The AdapterBackend of a model on a device: reads PEFT and Medusa adapters and merges of them, and
// brings them into the form that the model's kernels read.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "adapters/merge/merge_recipe.h"
#include "adapters/peft/device_base_weights.h"
#include "adapters/store/adapter_backend.h"
#include "adapters/store/packed_adapter.h"
#include "formats/folder.h"
#include "nn/adapter_tables.h"

namespace lorax {

// An adapter of the model on the device.
class ModelAdapter final : public ResidentAdapter {
 public:
  // `block` holds the packed adapter's bytes on the device, or is empty where the packed adapter
  // itself lies there.
  ModelAdapter(AdapterTables& tables, int slot, const PackedAdapter& packed, PoolBlock block);
  ~ModelAdapter() override;

  int64_t speculative_heads() const { return speculative_heads_; }
  std::span<const int32_t> invocation() const override { return invocation_; }

 private:
  AdapterTables& tables_;
  int slot_;
  PoolBlock block_;
  int64_t speculative_heads_;
  std::vector<int32_t> invocation_;
};

// Ids are directories, or what id_of(MergeRecipe) gives.
class ModelAdapterBackend final : public AdapterBackend {
 public:
  // Told what a user should know of an adapter and what stops nothing; called from any thread.
  using Warn = std::function<void(const std::string& warning)>;

  // All must outlive this. `base_name`: what adapters may call the model, for a warning. `bounds`:
  // where the files of adapters may lie. `ignored_config_keys` as in BaseModel.
  ModelAdapterBackend(Device& device, std::span<const AdapterModule> modules, AdapterTables& tables,
                      std::string base_name, Warn warn, FileBounds bounds = {},
                      std::vector<std::string> ignored_config_keys = {});
  ~ModelAdapterBackend() override;

  AdapterProbe probe(const std::string& id) override;
  std::unique_ptr<HostAdapter> load(const std::string& id, const AdapterProbe& probe) override;
  std::unique_ptr<ResidentAdapter> upload(const HostAdapter& adapter, int slot) override;

  // What load() reads, before it is packed.
  Adapter read(const std::string& id) const;
  // The steps of load() and upload() for an adapter from elsewhere. What pack() gives must not
  // outlive this, nor the adapter of install() what was packed.
  std::unique_ptr<PackedAdapter> pack(const Adapter& adapter) const;
  // In which form the model's dtype keeps the adapter's factors.
  AdapterPrecision precision_of(const Adapter& adapter) const;
  std::unique_ptr<ModelAdapter> install(const PackedAdapter& packed, int slot);
  // Whether host and device memory are one.
  bool is_unified() const { return host_memory_ == nullptr; }
  // Takes the device memory of all adapters from now on, `bytes`, at once: none is allocated when
  // one loads. Without it each takes what it needs. Only where memory is separate, and before any
  // adapter. Throws Error if there is less.
  void take_device_memory(size_t bytes) { pool_ = device_.make_pool(bytes); }

 private:
  std::unique_ptr<PackedAdapter> pack(const Adapter& adapter,
                                      const AdapterPrecision& precision) const;
  void warn_of(const std::string& id, const Adapter& adapter, const AdapterPrecision& precision);

  Device& device_;
  std::span<const AdapterModule> modules_;
  AdapterTables& tables_;
  std::string base_name_;
  std::vector<std::string> ignored_config_keys_;
  Warn warn_;
  const FileBounds bounds_;
  DeviceBaseWeights base_weights_;
  // Said of the first adapter that has cause.
  std::once_flag three_parts_said_, rank_limit_said_;
  std::unique_ptr<Device> host_memory_;  // null where the device's memory is the host's
  std::unique_ptr<DevicePool> pool_;     // likewise; of device memory
};

}  // namespace lorax
