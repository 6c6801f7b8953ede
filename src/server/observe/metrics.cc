#include "server/observe/metrics.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <prometheus/text_serializer.h>

#include "server/observe/metrics_json.h"

namespace lorax {
namespace {

double seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

// LoRAX's: 0.0001 * 1.5^k for k = 1 to 35, 0.15 ms to 146 s.
std::vector<double> duration_bounds() {
  std::vector<double> bounds;
  for (int k = 1; k <= 35; ++k) bounds.push_back(0.0001 * std::pow(1.5, k));
  return bounds;
}

// LoRAX's: 100 equal steps.
std::vector<double> length_bounds(int64_t most) {
  const int64_t steps = std::clamp<int64_t>(most, 1, 100);
  std::vector<double> bounds;
  for (int64_t i = 1; i <= steps; ++i) {
    bounds.push_back(static_cast<double>(most) * static_cast<double>(i) /
                     static_cast<double>(steps));
  }
  return bounds;
}

// Powers of two up to 1,024.
std::vector<double> size_bounds() {
  std::vector<double> bounds;
  for (double size = 1; size <= 1024; size *= 2) bounds.push_back(size);
  return bounds;
}

}  // namespace

Metrics::Metrics(ServiceCollector::Sources sources)
    : collector_(sources),
      requests_(add_counter("lorax_request_count", "Requests for a generation")),
      successes_(add_counter("lorax_request_success", "Of these, ended well")),
      failures_(prometheus::BuildCounter()
                    .Name("lorax_request_failure")
                    .Help("Of these, failed")
                    .Register(registry_)),
      duration_(add_histogram("lorax_request_duration",
                              "From a request's arrival to the end of its response",
                              duration_bounds())),
      validation_(add_histogram("lorax_request_validation_duration",
                                "Parsing, tokenizing and checking a request", duration_bounds())),
      queue_(add_histogram("lorax_request_queue_duration", "Waiting for the first step",
                           duration_bounds())),
      inference_(add_histogram("lorax_request_inference_duration",
                               "From the first step to the last token", duration_bounds())),
      time_per_token_(add_histogram("lorax_request_mean_time_per_token_duration",
                                    "Inference over generated tokens", duration_bounds())),
      first_token_(add_histogram("lorax_request_time_to_first_token_duration",
                                 "From a request's arrival to its first token", duration_bounds())),
      next_token_(add_histogram("lorax_request_inter_token_duration",
                                "Between two tokens of a generation", duration_bounds())),
      input_length_(add_histogram("lorax_request_input_length", "Tokens of a prompt",
                                  length_bounds(sources.service->limits().max_input_tokens))),
      max_new_tokens_(add_histogram("lorax_request_max_new_tokens",
                                    "Tokens that a request may generate",
                                    length_bounds(sources.service->limits().max_total_tokens))),
      generated_tokens_(add_histogram("lorax_request_generated_tokens",
                                      "Tokens that a request generated",
                                      length_bounds(sources.service->limits().max_total_tokens))),
      prefill_(add_step_metrics("prefill")),
      decode_(add_step_metrics("decode")),
      batch_size_(add_histogram("lorax_batch_next_size", "Sequences of a step", size_bounds())) {}

Metrics::StepMetrics Metrics::add_step_metrics(const std::string& method) {
  const prometheus::Labels labels = {{"method", method}};
  const auto counter = [&](const std::string& name, const std::string& help) -> auto& {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry_).Add(labels);
  };
  return {.count = counter("lorax_batch_inference_count", "Steps, by whether prompts took part"),
          .success = counter("lorax_batch_inference_success", "Of these, ended well"),
          .failure = counter("lorax_batch_inference_failure", "Of these, failed"),
          .duration = prometheus::BuildHistogram()
                          .Name("lorax_batch_inference_duration")
                          .Help("Time of a step")
                          .Register(registry_)
                          .Add(labels, duration_bounds())};
}

prometheus::Counter& Metrics::add_counter(const std::string& name, const std::string& help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry_).Add({});
}

prometheus::Histogram& Metrics::add_histogram(const std::string& name, const std::string& help,
                                              const std::vector<double>& bounds) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry_).Add({}, bounds);
}

void Metrics::on_request(std::string_view) { requests_.Increment(); }

void Metrics::on_validated(std::chrono::nanoseconds validation, int64_t input_length,
                           int64_t max_new_tokens) {
  validation_.Observe(seconds(validation));
  input_length_.Observe(static_cast<double>(input_length));
  max_new_tokens_.Observe(static_cast<double>(max_new_tokens));
}

void Metrics::on_first_token(std::chrono::nanoseconds time) { first_token_.Observe(seconds(time)); }

void Metrics::on_next_token(std::chrono::nanoseconds time) { next_token_.Observe(seconds(time)); }

void Metrics::on_success(const RequestReport& report) {
  successes_.Increment();
  duration_.Observe(seconds(report.total));
  queue_.Observe(seconds(report.queue));
  inference_.Observe(seconds(report.inference));
  const double tokens = static_cast<double>(std::max<int64_t>(report.generated_tokens, 1));
  time_per_token_.Observe(seconds(report.inference) / tokens);
  generated_tokens_.Observe(static_cast<double>(report.generated_tokens));
}

void Metrics::on_step(const StepReport& report) {
  StepMetrics& step = report.is_prefill ? prefill_ : decode_;
  step.count.Increment();
  (report.succeeded ? step.success : step.failure).Increment();
  step.duration.Observe(seconds(report.time));
  batch_size_.Observe(static_cast<double>(report.sequences));
}

void Metrics::on_failure(std::string_view error) {
  failures_.Add({{"err", std::string(error)}}).Increment();
}

std::vector<prometheus::MetricFamily> Metrics::collect(const Sees& sees) const {
  std::vector<prometheus::MetricFamily> families = registry_.Collect();
  std::ranges::move(collector_.collect(sees), std::back_inserter(families));
  return families;
}

std::string Metrics::text(const Sees& sees) const {
  return prometheus::TextSerializer().Serialize(collect(sees));
}

std::string Metrics::json(const Sees& sees) const { return metrics_json(collect(sees)); }

}  // namespace lorax
