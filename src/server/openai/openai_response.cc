#include "server/openai/openai_response.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "server/api/api_route.h"
#include "server/api/random_seed.h"
#include "server/http/sse.h"

namespace lorax {
namespace {

void write_usage(JsonWriter& json, const Usage& usage) {
  json.key("usage").begin_object();
  json.field("prompt_tokens", usage.prompt_tokens);
  json.field("completion_tokens", usage.completion_tokens);
  json.field("total_tokens", usage.prompt_tokens + usage.completion_tokens);
  json.key("prompt_tokens_details").begin_object();
  json.field("cached_tokens", usage.cached_tokens);
  json.end_object();
  json.end_object();
}

}  // namespace

OpenAiAnswer openai_answer(const ApiContext& context, const OpenAiPlan& plan,
                           std::string_view id_prefix, bool include_usage) {
  OpenAiAnswer answer;
  answer.id = fmt::format("{}-{:016x}{:016x}", id_prefix, random_seed(), random_seed());
  answer.model = plan.model;
  answer.fingerprint = context.settings.version + "-native";
  answer.created = std::chrono::duration_cast<std::chrono::seconds>(
                       std::chrono::system_clock::now().time_since_epoch())
                       .count();
  answer.candidates = plan.candidates;
  answer.choices = plan.choices;
  answer.include_usage = include_usage;
  answer.prompt_logprobs = plan.prompt_logprobs;
  return answer;
}

std::string_view openai_reason(FinishReason reason) {
  return reason == FinishReason::kLength ? "length" : "stop";
}

void begin_answer(JsonWriter& json, const OpenAiAnswer& answer, std::string_view object) {
  json.begin_object();
  json.field("id", answer.id);
  json.field("object", object);
  json.field("created", answer.created);
  json.field("model", answer.model);
  json.field("system_fingerprint", answer.fingerprint);
}

void begin_chunk(JsonWriter& json, const OpenAiAnswer& answer, std::string_view object,
                 size_t index) {
  begin_answer(json, answer, object);
  json.key("choices").begin_array().begin_object();
  json.field("index", index);
}

std::string end_chunk(JsonWriter& json, const OpenAiAnswer& answer, const GenerationEnd* end) {
  json.key("finish_reason");
  end == nullptr ? json.null() : json.value(openai_reason(end->reason));
  json.end_object().end_array();
  if (answer.include_usage) json.null_field("usage");
  json.end_object();
  return sse_event(json.take());
}

void write_prompt_logprobs(JsonWriter& json, const OpenAiAnswer& answer,
                           const std::vector<TokenInfo>& prompt) {
  if (!answer.prompt_logprobs) return;
  json.key("prompt_logprobs").begin_array();
  for (const TokenInfo& token : prompt) {
    if (std::isnan(token.logprob)) {
      json.null();
      continue;
    }
    json.begin_object();
    // The rank is 1 for the most likely; of a token beyond those reported it is not known.
    const auto write = [&](int32_t id, const std::string& text, float logprob, size_t rank) {
      json.key(std::to_string(id)).begin_object();
      json.field("logprob", finite_logprob(logprob));
      json.key("rank");
      rank == 0 ? json.null() : json.value(static_cast<int64_t>(rank));
      json.field("decoded_token", text);
      json.end_object();
    };
    const size_t reported =
        std::min(token.alternatives.size(), static_cast<size_t>(*answer.prompt_logprobs));
    size_t rank = 0;
    for (size_t i = 0; i < token.alternatives.size(); ++i) {
      const TokenAlternative& other = token.alternatives[i];
      if (other.id == token.id) rank = i + 1;
      if (i < reported) write(other.id, other.text, other.logprob, i + 1);
    }
    if (rank == 0 || rank > reported) write(token.id, token.text, token.logprob, rank);
    json.end_object();
  }
  json.end_array();
}

void Usage::add(const GenerationEnd& end, size_t index, int64_t candidates) {
  completion_tokens += end.generated_tokens;
  if (index % static_cast<size_t>(candidates) != 0) return;
  prompt_tokens += end.prompt_tokens;
  cached_tokens += end.cached_prompt_tokens;
}

HttpResponse end_answer(JsonWriter& json, const Usage& usage, Headers headers,
                        const std::vector<Generation>& generations, const RequestReport& report) {
  write_usage(json, usage);
  json.end_object();
  HttpResponse response = json_response(json.take());
  response.headers = std::move(headers);
  add_late_headers(response.headers, generations.front().end, report);
  return response;
}

std::string closing_events(const OpenAiAnswer& answer, std::string_view object,
                           const Usage& usage) {
  std::string events;
  if (answer.include_usage) {
    JsonWriter json;
    begin_answer(json, answer, object);
    json.key("choices").begin_array().end_array();
    write_usage(json, usage);
    json.end_object();
    events = sse_event(json.take());
  }
  return events + sse_event("[DONE]");
}

std::vector<size_t> chosen(const std::vector<Generation>& generations, const OpenAiAnswer& answer,
                           size_t prompt) {
  std::vector<size_t> indices;
  for (int64_t i = 0; i < answer.candidates; ++i) {
    indices.push_back(prompt * static_cast<size_t>(answer.candidates) + static_cast<size_t>(i));
  }
  if (answer.choices < answer.candidates) {
    std::ranges::stable_sort(indices, std::ranges::greater(),
                             [&](size_t index) { return generations[index].mean_logprob(); });
    indices.resize(static_cast<size_t>(answer.choices));
  }
  return indices;
}

float finite_logprob(float logprob) { return std::isfinite(logprob) ? logprob : -9999.0f; }

}  // namespace lorax
