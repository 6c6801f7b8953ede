// What happens to requests, for those who count and time it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace lorax {

// A request that succeeded. Sums where it has several generations (best_of, n, several prompts).
struct RequestReport {
  std::string_view route;  // "/generate"
  std::string adapter;     // as the client named it; "" for the base model
  int64_t prompt_tokens = 0;
  int64_t cached_prompt_tokens = 0;
  int64_t generated_tokens = 0;
  // From the request's arrival to the end of its response; up to the engine; in the engine's queue;
  // in the engine from then on. Of the slowest generation.
  std::chrono::nanoseconds total{0};
  std::chrono::nanoseconds validation{0};
  std::chrono::nanoseconds queue{0};
  std::chrono::nanoseconds inference{0};
};

// Calls come from any thread, the engine's among them, at the same time; they must not block.
class RequestObserver {
 public:
  virtual ~RequestObserver() = default;

  // A request that generates has come; exactly one of on_success and on_failure follows.
  // lorax_request_count.
  virtual void on_request(std::string_view route) = 0;
  // It is valid and has been queued. lorax_request_validation_duration, _input_length,
  // _max_new_tokens; once for each of its generations.
  virtual void on_validated(std::chrono::nanoseconds validation, int64_t input_length,
                            int64_t max_new_tokens) = 0;
  // Since the request's arrival; since the previous token of the same generation.
  virtual void on_first_token(std::chrono::nanoseconds time) = 0;
  virtual void on_next_token(std::chrono::nanoseconds time) = 0;
  // lorax_request_success, _duration, _queue_duration, _inference_duration,
  // _mean_time_per_token_duration, _generated_tokens.
  virtual void on_success(const RequestReport& report) = 0;
  // lorax_request_failure{err}; `error` is a label of failure_label(). A client that has gone
  // counts as "incomplete".
  virtual void on_failure(std::string_view error) = 0;
};

// Watches nothing.
class NoObserver final : public RequestObserver {
 public:
  void on_request(std::string_view) override {}
  void on_validated(std::chrono::nanoseconds, int64_t, int64_t) override {}
  void on_first_token(std::chrono::nanoseconds) override {}
  void on_next_token(std::chrono::nanoseconds) override {}
  void on_success(const RequestReport&) override {}
  void on_failure(std::string_view) override {}
};

}  // namespace lorax
