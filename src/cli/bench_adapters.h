// Random LoRA adapters in a model's shapes, for benchmarks.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "adapters/store/model_adapter_backend.h"
#include "engine/load/loaded_model.h"

namespace lorax::cli {

class BenchAdapters {
 public:
  // `count` of them, of that rank, on the projections whose names `targets` lists ("q_proj"), or
  // "all" seven. Throws Error for a name that no module has.
  BenchAdapters(LoadedModel& model, int64_t count, int64_t rank,
                const std::vector<std::string>& targets);

  int64_t count() const { return static_cast<int64_t>(resident_.size()); }
  const AdapterTables& tables() const { return tables_; }
  // Of A and B of one adapter.
  uint64_t bytes_each() const { return bytes_each_; }

 private:
  AdapterTables tables_;
  ModelAdapterBackend backend_;
  std::vector<std::unique_ptr<PackedAdapter>> packed_;
  std::vector<std::unique_ptr<ModelAdapter>> resident_;
  uint64_t bytes_each_ = 0;
};

}  // namespace lorax::cli
