// Metrics of the engine's and the adapter store's state, read from their statistics whenever they
// are asked for: nothing is kept, so nothing grows old.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include "adapters/store/adapter_store_types.h"
#include "engine/schedule/generation_service.h"

namespace lorax {

class ServiceCollector final : public prometheus::Collectable {
 public:
  struct Sources {
    const GenerationService* service = nullptr;  // must outlive the collector
    std::function<AdapterStoreStats()> adapters;
    // The name by which clients know an adapter, from its store id.
    std::function<std::string(const std::string& id)> adapter_name;
    int64_t block_size = 0;  // tokens of a KV page
    // Lines of the log that nobody got; without it there is no such metric.
    std::function<uint64_t()> dropped_log_lines;
  };

  // Names in one label of vllm:lora_requests_info at most.
  static constexpr size_t kMaxListedAdapters = 128;

  explicit ServiceCollector(Sources sources) : sources_(std::move(sources)) {}

  // Whether an adapter may be named, by the name that clients know.
  using Sees = std::function<bool(const std::string& adapter_name)>;
  static bool all(const std::string&) { return true; }

  std::vector<prometheus::MetricFamily> Collect() const override { return collect(all); }
  std::vector<prometheus::MetricFamily> collect(const Sees& sees) const;

 private:
  Sources sources_;
};

}  // namespace lorax
