// What POST /v1/chat/completions answers.
#pragma once

#include <memory>
#include <vector>

#include "server/api/response_headers.h"
#include "server/openai/chat_request.h"
#include "server/openai/openai_response.h"

namespace lorax {

struct ChatAnswer : OpenAiAnswer {
  const Tokenizer* tokenizer = nullptr;  // must outlive the answer
  bool has_logprobs = false;
};

ChatAnswer chat_answer(const ApiContext& context, const ChatPlan& plan, bool include_usage);

HttpResponse chat_response(const ChatAnswer& answer, Headers headers,
                           std::vector<Generation>& generations, const RequestReport& report);

// For each choice a chunk with the role, one for each token that adds text or has logprobs, and
// one with the finish_reason; then the end.
std::unique_ptr<EventFormat> chat_events(ChatAnswer answer);

}  // namespace lorax
