// What POST /v1/completions answers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/api/response_headers.h"
#include "server/openai/completion_request.h"
#include "server/openai/openai_response.h"

namespace lorax {

struct CompletionAnswer : OpenAiAnswer {
  const Tokenizer* tokenizer = nullptr;
  std::vector<Echo> echoes;  // of each prompt, or none
  bool has_logprobs = false;
  size_t alternatives = 0;
  bool hides_completion = false;
};

CompletionAnswer completion_answer(const ApiContext& context, const CompletionPlan& plan,
                                   bool include_usage);

HttpResponse completion_response(const CompletionAnswer& answer, Headers headers,
                                 std::vector<Generation>& generations, const RequestReport& report);

// A chunk for each token that adds text or has logprobs, one with the finish_reason, and the end.
std::unique_ptr<EventFormat> completion_events(CompletionAnswer answer);

}  // namespace lorax
