// The body of POST /v1/completions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "server/openai/openai_plan.h"

namespace lorax {

using CompletionPrompt = std::variant<std::string, std::vector<int32_t>>;

struct CompletionBody : OpenAiFields {
  std::vector<CompletionPrompt> prompts;
  std::optional<int64_t> max_tokens;
  std::optional<int64_t> best_of;
  std::optional<int64_t> logprobs;
  bool echo = false;
  bool add_special_tokens = true;
};

FieldTable<CompletionBody> completion_fields(const ApiSettings& settings);

// The text of a prompt, to be put before the answer.
struct Echo {
  std::string text;
  bool has_hidden_bos = false;  // the prompt's first token is not in it
};

struct CompletionPlan : OpenAiPlan {
  std::vector<Echo> echoes;  // of each prompt, if it is to be echoed
  bool has_logprobs = false;
  size_t alternatives = 0;        // to report beside each token
  bool hides_completion = false;  // max_tokens is 0: the prompt alone is wanted
  size_t characters = 0;          // of the prompts that came as text
};

// Reads, checks and plans. Throws ApiError.
CompletionPlan plan_completion(const ApiContext& context, const FieldTable<CompletionBody>& table,
                               CompletionBody body, const Tenant* tenant);

}  // namespace lorax
