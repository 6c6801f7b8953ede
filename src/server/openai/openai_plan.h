// From a body of an OpenAI route to what the engine does for it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "server/openai/openai_fields.h"

namespace lorax {

// A valid request, ready to be submitted.
struct OpenAiPlan {
  std::string model;  // as the client calls it
  AdapterChoice adapter;
  // Of each prompt `candidates`, one after the other; they differ in their seeds.
  std::vector<GenerationRequest> generations;
  int64_t candidates = 1;  // best_of
  int64_t choices = 1;     // n: the candidates of a prompt that are answered
  // Most likely tokens to report in the place of each of the prompt's; none: no report.
  std::optional<int64_t> prompt_logprobs;
};

// What of a request does not come from OpenAiFields.
struct OpenAiShape {
  std::string_view prompt_field;  // for messages: "prompt", "messages"
  std::string_view max_field;     // "max_tokens"
  std::optional<int64_t> max_new_tokens;
  int64_t best_of = 0;  // 0: n
  int32_t alternatives = 0;
  bool prompt_logprobs = false;
};

// The name of the adapter that the fields name, of whatever it is (named_adapter()).
std::string named_model(const ApiContext& context, const OpenAiFields& body, const Tenant* tenant);

// Throws ApiError. The model or adapter that the fields name:
AdapterChoice choose_model(const ApiContext& context, const OpenAiFields& body,
                           const Tenant* tenant);
// How many of a prompt's last tokens to keep; 0: all.
int64_t truncation_of(const ApiContext& context, const OpenAiFields& body);
// The checks of the fields that the tables cannot make, and the plan.
OpenAiPlan plan_openai(const ApiContext& context, const OpenAiFields& body, AdapterChoice adapter,
                       const std::vector<std::vector<int32_t>>& prompts, const OpenAiShape& shape);

}  // namespace lorax
