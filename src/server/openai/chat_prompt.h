// From the messages of a chat to the text of its prompt, in the ways that clients can ask for.
#pragma once

#include <optional>
#include <string>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include "server/api/chat_renderer.h"
#include "server/api/foreign_fields.h"

namespace lorax {

// As in Transformers and vLLM.
struct ChatOptions {
  // Whether the prompt ends where an answer begins. None: yes, unless the last message goes on.
  std::optional<bool> add_generation_prompt;
  // The prompt ends within the last message, whose text the answer continues.
  bool continue_final_message = false;
  // More variables for the template. Two of them may be those above, and then go before them.
  boost::json::object chat_template_kwargs;
};

// Throws ApiError: the options are at odds, the template refuses the messages, or it does not read
// a part of theirs that asks for something, such as tool calls. Appends to `ignored` what else it
// does not read of messages and variables.
std::string prompt_of_chat(const ChatRenderer& chat, const boost::json::array& messages,
                           ChatOptions options, const std::string& adapter, IgnoredFields& ignored);

}  // namespace lorax
