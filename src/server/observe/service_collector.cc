#include "server/observe/service_collector.h"

#include <algorithm>
#include <chrono>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace lorax {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

ClientMetric sample(MetricType type, double value, Labels labels = {}) {
  ClientMetric metric;
  metric.label = std::move(labels);
  if (type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  return metric;
}

// The families of one answer, in the order in which they were added.
class Families {
 public:
  template <typename Number>
  void gauge(std::string name, std::string help, Number value) {
    add(MetricType::Gauge, std::move(name), std::move(help), static_cast<double>(value));
  }
  template <typename Number>
  void counter(std::string name, std::string help, Number value) {
    add(MetricType::Counter, std::move(name), std::move(help), static_cast<double>(value));
  }
  void gauge_with_labels(std::string name, std::string help, double value, Labels labels) {
    families_.push_back({std::move(name),
                         std::move(help),
                         MetricType::Gauge,
                         {sample(MetricType::Gauge, value, std::move(labels))}});
  }
  // One sample per tier.
  void tiers(MetricType type, std::string name, std::string help, double host, double device) {
    families_.push_back(
        {std::move(name),
         std::move(help),
         type,
         {sample(type, host, {{"tier", "host"}}), sample(type, device, {{"tier", "device"}})}});
  }

  std::vector<MetricFamily> take() { return std::move(families_); }

 private:
  void add(MetricType type, std::string name, std::string help, double value) {
    families_.push_back({std::move(name), std::move(help), type, {sample(type, value)}});
  }

  std::vector<MetricFamily> families_;
};

std::string joined(const std::vector<std::string>& ids,
                   const std::function<std::string(const std::string&)>& name_of,
                   const ServiceCollector::Sees& sees) {
  std::string list;
  for (size_t i = 0; i < std::min(ids.size(), ServiceCollector::kMaxListedAdapters); ++i) {
    const std::string name = name_of(ids[i]);
    if (!sees(name)) continue;
    if (!list.empty()) list += ',';
    list += name;
  }
  return list;
}

void add_service(const ServiceStats& stats, int64_t block_size, Families& out) {
  const double used = stats.kv_blocks > 0 ? static_cast<double>(stats.kv_blocks_used) /
                                                static_cast<double>(stats.kv_blocks)
                                          : 0.0;
  out.gauge("lorax_queue_length", "Requests that wait for their first step", stats.waiting);
  out.gauge("lorax_batch_current_size", "Requests that run", stats.running);
  out.gauge("lorax_batch_current_max_tokens", "Tokens of KV memory that running requests hold",
            stats.kv_blocks_used * block_size);
  out.gauge("lorax_step_tokens", "Tokens of the last step", stats.step_tokens);
  out.gauge("lorax_kv_blocks", "Pages of KV memory", stats.kv_blocks);
  out.gauge("lorax_kv_blocks_used", "Pages that running requests hold", stats.kv_blocks_used);
  out.gauge("lorax_kv_blocks_cached", "Pages that only the prefix cache holds",
            stats.kv_blocks_cached);
  out.counter("lorax_steps", "Steps of the engine", stats.steps);
  out.counter("lorax_preemptions", "Requests that gave up their pages and were computed again",
              stats.preemptions);
  out.counter("lorax_prompt_tokens", "Tokens of prompts, cached ones included",
              stats.prompt_tokens);
  out.counter("lorax_generated_tokens", "Generated tokens", stats.generated_tokens);
  out.counter("lorax_prefix_cache_queried_tokens", "Prompt tokens looked up in the prefix cache",
              stats.prefix_tokens_queried);
  out.counter("lorax_prefix_cache_hit_tokens", "Prompt tokens found there",
              stats.prefix_tokens_hit);

  out.gauge("vllm:num_requests_waiting", "As lorax_queue_length", stats.waiting);
  out.gauge("vllm:num_requests_running", "As lorax_batch_current_size", stats.running);
  out.gauge("vllm:kv_cache_usage_perc", "Share of KV pages that running requests hold, 0 to 1",
            used);
  out.counter("vllm:prefix_cache_queries", "As lorax_prefix_cache_queried_tokens",
              stats.prefix_tokens_queried);
  out.counter("vllm:prefix_cache_hits", "As lorax_prefix_cache_hit_tokens",
              stats.prefix_tokens_hit);
  out.gauge_with_labels("vllm:cache_config_info", "Size of KV memory", 1.0,
                        {{"block_size", fmt::to_string(block_size)},
                         {"num_gpu_blocks", fmt::to_string(stats.kv_blocks)}});
}

void add_adapters(const AdapterStoreStats& stats, Families& out) {
  const AdapterTierStats& host = stats.host;
  const AdapterTierStats& device = stats.device;
  const auto counter = [&](std::string name, std::string help, auto member) {
    out.tiers(MetricType::Counter, std::move(name), std::move(help),
              static_cast<double>(host.*member), static_cast<double>(device.*member));
  };
  const auto gauge = [&](std::string name, std::string help, auto member) {
    out.tiers(MetricType::Gauge, std::move(name), std::move(help),
              static_cast<double>(host.*member), static_cast<double>(device.*member));
  };
  gauge("lorax_adapter_budget_bytes", "Memory that adapters may take",
        &AdapterTierStats::budget_bytes);
  gauge("lorax_adapter_bytes", "Memory that adapters take", &AdapterTierStats::bytes);
  gauge("lorax_adapters", "Adapters in memory", &AdapterTierStats::adapters);
  counter("lorax_adapter_hits", "Requests that found their adapter in memory",
          &AdapterTierStats::hits);
  counter("lorax_adapter_loads", "Adapters brought to memory", &AdapterTierStats::loads);
  counter("lorax_adapter_load_failures", "Adapters that could not be brought to memory",
          &AdapterTierStats::failed_loads);
  counter("lorax_adapter_load_seconds", "Time spent bringing them",
          &AdapterTierStats::load_seconds);
  counter("lorax_adapter_evictions", "Adapters that gave way to others",
          &AdapterTierStats::evictions);
  out.gauge("lorax_adapter_slots", "Adapters that can be used at once", stats.slots);
  out.gauge("lorax_adapter_slots_used", "Of these, taken", stats.slots_used);
  out.gauge("lorax_adapter_loads_waiting", "Loads in progress", stats.waiting);
}

}  // namespace

std::vector<MetricFamily> ServiceCollector::collect(const Sees& sees) const {
  Families families;
  const ServiceStats service = sources_.service->stats();
  const AdapterStoreStats adapters = sources_.adapters();
  add_service(service, sources_.block_size, families);
  add_adapters(adapters, families);
  if (sources_.dropped_log_lines) {
    families.counter("lorax_log_dropped_lines",
                     "Lines of the log that were not read in time, or could not be written",
                     sources_.dropped_log_lines());
  }
  // The gateway takes the series with the newest value.
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  families.gauge_with_labels(
      "vllm:lora_requests_info", "Adapters of running and of waiting requests; value: unix time",
      now.count(),
      {{"max_lora", fmt::to_string(adapters.slots)},
       {"running_lora_adapters", joined(service.running_adapters, sources_.adapter_name, sees)},
       {"waiting_lora_adapters", joined(service.waiting_adapters, sources_.adapter_name, sees)}});
  return families.take();
}

}  // namespace lorax
