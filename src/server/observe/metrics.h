// All metrics of the server: counters and histograms of requests and steps under LoRAX's names,
// and the state of engine and adapter store (service_collector.h).
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include "engine/engine_options.h"
#include "server/observe/request_observer.h"
#include "server/observe/service_collector.h"

namespace lorax {

// Thread-safe. Times are in seconds.
class Metrics final : public RequestObserver {
 public:
  explicit Metrics(ServiceCollector::Sources sources);

  void on_request(std::string_view route) override;
  void on_validated(std::chrono::nanoseconds validation, int64_t input_length,
                    int64_t max_new_tokens) override;
  void on_first_token(std::chrono::nanoseconds time) override;
  void on_next_token(std::chrono::nanoseconds time) override;
  void on_success(const RequestReport& report) override;
  void on_failure(std::string_view error) override;

  // lorax_batch_*, whose method is prefill or decode.
  void on_step(const StepReport& report);

  // In Prometheus' text format 0.0.4, and as of metrics_json.h; naming the adapters that `sees` is
  // true for.
  using Sees = ServiceCollector::Sees;
  std::string text(const Sees& sees = ServiceCollector::all) const;
  std::string json(const Sees& sees = ServiceCollector::all) const;

 private:
  // Of steps of one method.
  struct StepMetrics {
    prometheus::Counter& count;
    prometheus::Counter& success;
    prometheus::Counter& failure;
    prometheus::Histogram& duration;
  };

  StepMetrics add_step_metrics(const std::string& method);
  prometheus::Counter& add_counter(const std::string& name, const std::string& help);
  prometheus::Histogram& add_histogram(const std::string& name, const std::string& help,
                                       const std::vector<double>& bounds);
  std::vector<prometheus::MetricFamily> collect(const Sees& sees) const;

  prometheus::Registry registry_;
  ServiceCollector collector_;
  prometheus::Counter& requests_;
  prometheus::Counter& successes_;
  prometheus::Family<prometheus::Counter>& failures_;  // by "err"
  prometheus::Histogram& duration_;
  prometheus::Histogram& validation_;
  prometheus::Histogram& queue_;
  prometheus::Histogram& inference_;
  prometheus::Histogram& time_per_token_;
  prometheus::Histogram& first_token_;
  prometheus::Histogram& next_token_;
  prometheus::Histogram& input_length_;
  prometheus::Histogram& max_new_tokens_;
  prometheus::Histogram& generated_tokens_;
  StepMetrics prefill_;
  StepMetrics decode_;
  prometheus::Histogram& batch_size_;
};

}  // namespace lorax
