// A model in memory with everything it stands on, loaded from a checkpoint directory or made of
// random numbers in a given shape.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "device/device.h"
#include "device/factory/device_factory.h"
#include "models/model_definition.h"
#include "nn/weights.h"

namespace lorax {

struct LoadOptions {
  DeviceOptions device = {};
  // float32, bfloat16 or float16; none: float32 for a float32 checkpoint, bfloat16 otherwise.
  std::optional<DType> dtype = std::nullopt;
  // Bytes loaded and bytes in all; called from loading threads, one at a time.
  std::function<void(uint64_t done, uint64_t total)> progress = {};
};

class LoadedModel {
 public:
  // Throws Error for a checkpoint that cannot be served, or one larger than the memory left.
  static LoadedModel from_checkpoint(const std::filesystem::path& directory,
                                     const LoadOptions& options);
  static LoadedModel with_random_weights(std::unique_ptr<ModelDefinition> definition,
                                         const LoadOptions& options);

  // Weights from anywhere. What `source` stands on must outlive the call.
  static LoadedModel from_source(std::unique_ptr<ModelDefinition> definition,
                                 std::unique_ptr<TensorSource> source, const LoadOptions& options);

  Device& device() { return *device_; }
  const Device& device() const { return *device_; }
  const FlashCausalLM& model() const { return *model_; }
  const ModelInfo& info() const { return definition_->info(); }
  const ModelDefinition& definition() const { return *definition_; }
  const TensorSource& source() const { return *source_; }
  DType dtype() const { return store_->dtype(); }
  // Device bytes of all weights.
  uint64_t weight_bytes() const { return store_->bytes(); }
  std::span<const Buffer> weight_buffers() const { return store_->buffers(); }

 private:
  LoadedModel(std::unique_ptr<ModelDefinition> definition,
              std::unique_ptr<SafetensorsCheckpoint> checkpoint,
              std::unique_ptr<TensorSource> source, const LoadOptions& options);

  // In the order in which each stands on those before it.
  std::unique_ptr<ModelDefinition> definition_;
  std::unique_ptr<SafetensorsCheckpoint> checkpoint_;
  std::unique_ptr<TensorSource> source_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<WeightStore> store_;
  std::unique_ptr<FlashCausalLM> model_;
};

// What loading would need, without loading: checks every tensor's name, shape and type.
// Returns the device bytes of the weights in `dtype`.
uint64_t check_weights(const ModelDefinition& definition, const TensorSource& source, DType dtype);

// The dtype to serve in when the user names none.
DType default_dtype(const ModelInfo& info);

}  // namespace lorax
