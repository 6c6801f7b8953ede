// The body of POST /v1/chat/completions.
#pragma once

#include <cstdint>
#include <optional>

#include <boost/json/array.hpp>

#include "server/openai/chat_prompt.h"
#include "server/openai/openai_plan.h"

namespace lorax {

struct ChatBody : OpenAiFields, ChatOptions {
  boost::json::array messages;  // checked, "developer" spelled "system"
  std::optional<int64_t> max_tokens;
  std::optional<int64_t> max_completion_tokens;
  bool logprobs = false;
  std::optional<int64_t> top_logprobs;
  bool offers_tools = false;
  bool declines_tools = false;  // tool_choice is "none"
  bool offers_functions = false;
  bool declines_functions = false;
};

FieldTable<ChatBody> chat_fields(const ApiSettings& settings);

struct ChatPlan : OpenAiPlan {
  IgnoredFields ignored;
  bool has_logprobs = false;
  size_t characters = 0;  // of the rendered prompt
};

// Reads, checks and plans. Throws ApiError.
ChatPlan plan_chat(const ApiContext& context, const FieldTable<ChatBody>& table,
                   const ChatBody& body, const Tenant* tenant);

}  // namespace lorax
