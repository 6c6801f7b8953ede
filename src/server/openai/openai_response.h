// What the answers of OpenAI's two generating routes share.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json_writer.h"
#include "server/api/api_context.h"
#include "server/api/response_headers.h"
#include "server/api/response_task.h"
#include "server/openai/openai_plan.h"

namespace lorax {

struct OpenAiAnswer {
  std::string id;  // "cmpl-..."
  std::string model;
  std::string fingerprint;
  int64_t created = 0;  // seconds since 1970
  int64_t candidates = 1;
  int64_t choices = 1;
  bool include_usage = false;
  std::optional<int64_t> prompt_logprobs;  // OpenAiPlan's
};

OpenAiAnswer openai_answer(const ApiContext& context, const OpenAiPlan& plan,
                           std::string_view id_prefix, bool include_usage);

// "stop" or "length".
std::string_view openai_reason(FinishReason reason);

// Opens the object of a response or a chunk and writes what stands before the choices.
void begin_answer(JsonWriter& json, const OpenAiAnswer& answer, std::string_view object);

// Opens a chunk of a stream and its one choice.
void begin_chunk(JsonWriter& json, const OpenAiAnswer& answer, std::string_view object,
                 size_t index);
// Closes them, as an event. `end`: null while the choice goes on.
std::string end_chunk(JsonWriter& json, const OpenAiAnswer& answer, const GenerationEnd* end);

// "prompt_logprobs" as vLLM has it, if it was asked for: null for the first token; for each other
// one an object of the most likely ids and its own.
void write_prompt_logprobs(JsonWriter& json, const OpenAiAnswer& answer,
                           const std::vector<TokenInfo>& prompt);

// Tokens that a response counts. The prompt of several candidates counts once.
struct Usage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t completion_tokens = 0;

  // The generation of this number has ended.
  void add(const GenerationEnd& end, size_t index, int64_t candidates);
};

// Closes the object of a response, behind its choices. There is at least one generation.
HttpResponse end_answer(JsonWriter& json, const Usage& usage, Headers headers,
                        const std::vector<Generation>& generations, const RequestReport& report);

// The chunk of a stream that has the usage, and the end of the stream.
std::string closing_events(const OpenAiAnswer& answer, std::string_view object, const Usage& usage);

// The generations that are answered for prompt number `prompt`: all of its candidates, or those
// with the highest mean logprobs, best first.
std::vector<size_t> chosen(const std::vector<Generation>& generations, const OpenAiAnswer& answer,
                           size_t prompt);

// As OpenAI writes a probability of zero.
float finite_logprob(float logprob);

}  // namespace lorax
