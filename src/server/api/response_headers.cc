#include "server/api/response_headers.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace lorax {
namespace {

std::string milliseconds(std::chrono::nanoseconds time) {
  return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(time).count());
}

}  // namespace

Headers early_headers(const ApiSettings& settings, size_t characters, const AdapterChoice& adapter,
                      const IgnoredFields& ignored) {
  Headers headers = {{"x-compute-type", settings.device_type == "cuda" ? "gpu+optimized" : "cpu"},
                     {"x-compute-characters", std::to_string(characters)},
                     {"x-model-id", settings.model_id}};
  if (!adapter.id.empty()) {
    headers.emplace_back("x-adapter-id", adapter.name);
    headers.emplace_back("x-adapter-source", "local");
  }
  if (!ignored.empty()) headers.emplace_back("x-ignored-fields", ignored_header(ignored));
  return headers;
}

void add_late_headers(Headers& headers, const GenerationEnd& end, const RequestReport& report) {
  const std::chrono::nanoseconds inference = end.prefill_time + end.decode_time;
  const int64_t tokens = std::max<int64_t>(end.generated_tokens, 1);
  const auto add = [&](const char* name, std::string value) {
    headers.emplace_back(name, std::move(value));
  };
  add("x-compute-time", milliseconds(report.total));
  add("x-total-time", milliseconds(report.total));
  add("x-prompt-tokens", std::to_string(end.prompt_tokens));
  add("x-generated-tokens", std::to_string(end.generated_tokens));
  add("x-skipped-tokens", "0");
  add("x-total-tokens", std::to_string(end.prompt_tokens + end.generated_tokens));
  add("x-validation-time", milliseconds(report.validation));
  add("x-queue-time", milliseconds(end.queue_time));
  add("x-inference-time", milliseconds(inference));
  add("x-time-per-token", milliseconds(inference / tokens));
  add("x-time-to-first-token", milliseconds(end.prefill_time));
  add("x-time-per-output-token", milliseconds(end.decode_time / std::max<int64_t>(tokens - 1, 1)));
}

size_t count_characters(std::string_view text) {
  return static_cast<size_t>(std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

}  // namespace lorax
