#include "engine/load/loaded_model.h"

#include "base/core_count.h"
#include "base/error.h"
#include "device/dry_run.h"
#include "device/factory/device_factory.h"
#include "models/checkpoint_folder.h"
#include "models/registry/model_registry.h"

namespace lorax {

DType default_dtype(const ModelInfo& info) {
  return info.checkpoint_dtype == DType::kFloat32 ? DType::kFloat32 : DType::kBFloat16;
}

uint64_t check_weights(const ModelDefinition& definition, const TensorSource& source, DType dtype) {
  DryRunDevice device;
  WeightStore store(device, source, dtype, WeightStore::Mode::kCheck);
  definition.build(store);
  return store.bytes();
}

LoadedModel LoadedModel::from_checkpoint(const std::filesystem::path& directory,
                                         const LoadOptions& options) {
  require_checkpoint(directory);
  std::unique_ptr<ModelDefinition> definition = read_model_definition(directory);
  auto checkpoint = std::make_unique<SafetensorsCheckpoint>(SafetensorsCheckpoint::open(directory));
  auto source = std::make_unique<CheckpointSource>(*checkpoint);
  return LoadedModel(std::move(definition), std::move(checkpoint), std::move(source), options);
}

LoadedModel LoadedModel::with_random_weights(std::unique_ptr<ModelDefinition> definition,
                                             const LoadOptions& options) {
  return LoadedModel(std::move(definition), nullptr, std::make_unique<RandomSource>(1), options);
}

LoadedModel LoadedModel::from_source(std::unique_ptr<ModelDefinition> definition,
                                     std::unique_ptr<TensorSource> source,
                                     const LoadOptions& options) {
  return LoadedModel(std::move(definition), nullptr, std::move(source), options);
}

LoadedModel::LoadedModel(std::unique_ptr<ModelDefinition> definition,
                         std::unique_ptr<SafetensorsCheckpoint> checkpoint,
                         std::unique_ptr<TensorSource> source, const LoadOptions& options)
    : definition_(std::move(definition)),
      checkpoint_(std::move(checkpoint)),
      source_(std::move(source)) {
  const DType dtype = options.dtype.value_or(default_dtype(info()));
  const uint64_t total = check_weights(*definition_, *source_, dtype);
  device_ = make_device(options.device);
  const uint64_t available = device_->available_memory();
  if (total > available) {
    fail(
        "{}: the weights need {:.1f} GB in {} and {:.1f} GB of memory are free; use {}{}a machine "
        "with more",
        source_->describe(), static_cast<double>(total) * 1e-9, name_of(dtype),
        static_cast<double>(available) * 1e-9,
        dtype == DType::kFloat32 ? "--dtype bfloat16 or " : "",
        device_->memory_limit() < device_->total_memory() ? "a larger --cuda-memory-fraction or "
                                                          : "");
  }
  WeightStore::Progress progress;
  if (options.progress) {
    progress = [&options, total](uint64_t done) { options.progress(done, total); };
  }
  store_ = std::make_unique<WeightStore>(
      *device_, *source_, dtype, WeightStore::Mode::kLoad,
      options.device.threads > 0 ? options.device.threads : usable_cores(), std::move(progress));
  model_ = definition_->build(*store_);
}

}  // namespace lorax
