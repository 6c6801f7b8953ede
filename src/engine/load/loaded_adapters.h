// The adapters of one command, loaded and held: tables, backend and store in the order in which
// each stands on those before it.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "adapters/store/adapter_store.h"
#include "adapters/store/model_adapter_backend.h"
#include "engine/load/loaded_model.h"

namespace lorax {

class LoadedAdapters {
 public:
  // Ids as of ModelAdapterBackend; "" is the base model. `model` must outlive this. `base_name`:
  // what adapters may call it; `ignored_config_keys` as in BaseModel. Throws Error if one cannot be
  // loaded, or they do not fit into memory.
  LoadedAdapters(LoadedModel& model, const std::string& base_name,
                 const std::vector<std::string>& ids, ModelAdapterBackend::Warn warn,
                 std::vector<std::string> ignored_config_keys = {});

  const AdapterTables& tables() const { return *tables_; }
  // kNoAdapter for "". `id` is one of those given.
  int32_t slot(const std::string& id) const;
  // The position of the prompt from which on it acts (aLoRA).
  int64_t acts_from(const std::string& id, std::span<const int32_t> prompt) const;
  // The adapter as its files say it, read anew.
  Adapter read(const std::string& id) const { return backend_->read(id); }
  // Its Medusa heads.
  int64_t speculative_heads(const std::string& id) const;

 private:
  std::unique_ptr<AdapterTables> tables_;
  std::unique_ptr<ModelAdapterBackend> backend_;
  std::unique_ptr<AdapterStore> store_;
  std::map<std::string, AdapterPin> pins_;
};

}  // namespace lorax
