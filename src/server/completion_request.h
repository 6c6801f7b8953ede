// The body of POST /v1/completions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "server/openai_plan.h"

namespace lorax {

using CompletionPrompt = std::variant<std::string, std::vector<int32_t>>;

struct CompletionBody : OpenAiFields {
  std::vector<CompletionPrompt> prompts;
  std::optional<int64_t> max_tokens;
  std::optional<int64_t> best_of;
  std::optional<int64_t> logprobs;
  bool echo = false;
};

FieldTable<CompletionBody> completion_fields(const ApiSettings& settings);

struct CompletionPlan : OpenAiPlan {
  std::vector<std::string> echoes;  // the text of each prompt, if it is to be echoed
  bool has_logprobs = false;
  bool hides_completion = false;  // max_tokens is 0: the prompt alone is wanted
  size_t characters = 0;          // of the prompts that came as text
};

// Reads, checks and plans. Throws ApiError.
CompletionPlan plan_completion(const ApiContext& context, const FieldTable<CompletionBody>& table,
                               CompletionBody body, const Tenant* tenant);

}  // namespace lorax
