#include "engine/load/loaded_adapters.h"

#include <algorithm>
#include <set>

#include "base/memory_info.h"
#include "engine/schedule/activation.h"
#include "nn/adapter_batch.h"

namespace lorax {

LoadedAdapters::LoadedAdapters(LoadedModel& model, const std::string& base_name,
                               const std::vector<std::string>& ids, ModelAdapterBackend::Warn warn,
                               std::vector<std::string> ignored_config_keys) {
  std::set<std::string> unique(ids.begin(), ids.end());
  unique.erase("");
  const std::vector<AdapterModule>& modules = model.model().adapter_modules();
  const int slots = std::max<int>(1, static_cast<int>(unique.size()));
  tables_ = std::make_unique<AdapterTables>(model.device(), static_cast<int64_t>(modules.size()),
                                            slots, model.dtype());
  backend_ = std::make_unique<ModelAdapterBackend>(model.device(), modules, *tables_, base_name,
                                                   std::move(warn), FileBounds(),
                                                   std::move(ignored_config_keys));
  // All of them are wanted at once, so what is free is theirs.
  AdapterStoreOptions options;
  options.unified_memory = model.device().memory_is_host();
  options.device_budget = model.device().available_memory();
  options.host_budget = available_memory_bytes();
  options.slots = slots;
  store_ = std::make_unique<AdapterStore>(*backend_, options);
  const std::vector<std::string> wanted(unique.begin(), unique.end());
  std::vector<AdapterPin> pins = store_->load_now(wanted);
  for (size_t i = 0; i < wanted.size(); ++i) pins_[wanted[i]] = std::move(pins[i]);
}

int32_t LoadedAdapters::slot(const std::string& id) const {
  return id.empty() ? kNoAdapter : pins_.at(id).slot();
}

int64_t LoadedAdapters::acts_from(const std::string& id, std::span<const int32_t> prompt) const {
  return id.empty() ? 0 : activation_of(prompt, pins_.at(id).adapter().invocation());
}

int64_t LoadedAdapters::speculative_heads(const std::string& id) const {
  if (id.empty()) return 0;
  return static_cast<const ModelAdapter&>(pins_.at(id).adapter()).speculative_heads();
}

}  // namespace lorax
