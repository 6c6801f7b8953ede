#include "server/openai/chat_prompt.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "server/api/api_error.h"
#include "server/api/request_fields.h"

namespace lorax {
namespace {

namespace json = boost::json;

constexpr std::string_view kSpaces = " \t\n\v\f\r";

// Behind the last message's text, to find it again in the prompt. The space at its end shows
// whether the template trims: Transformers' way.
constexpr std::string_view kMark = "CONTINUE_FINAL_MESSAGE_TAG ";

std::string_view without_spaces_at_end(std::string_view text) {
  return text.substr(0, text.find_last_not_of(kSpaces) + 1);
}

bool is_plain(std::string_view name) { return name == "role" || name == "content"; }

void take_flag(json::object& variables, std::string_view name, std::optional<bool>& flag) {
  const json::value* value = variables.if_contains(name);
  if (value == nullptr) return;
  if (!value->is_null()) fields::read(*value, name, flag);
  variables.erase(name);
}

// Variables that are fields of the request, or that no request can choose.
void take_options(ChatOptions& options) {
  json::object& variables = options.chat_template_kwargs;
  for (const std::string_view name :
       {"chat_template", "documents", "messages", "tokenize", "tools"}) {
    const json::value* value = variables.if_contains(name);
    if (value == nullptr) continue;
    if (!asks_for_nothing(*value)) {
      refuse("chat_template_kwargs",
             fmt::format("`chat_template_kwargs` cannot have `{}`; leave it out", name));
    }
    variables.erase(name);
  }
  take_flag(variables, "add_generation_prompt", options.add_generation_prompt);
  std::optional<bool> continues;
  take_flag(variables, "continue_final_message", continues);
  options.continue_final_message = continues.value_or(options.continue_final_message);
  if (options.continue_final_message && options.add_generation_prompt == true) {
    refuse("continue_final_message",
           "`continue_final_message` and `add_generation_prompt` cannot both be true; leave one of "
           "them out");
  }
}

// The string of the last message that goes on: its content, or the text of its last part with one.
json::string& final_text(json::array& messages) {
  json::value& content = messages.back().get_object()["content"];
  if (content.is_string()) return content.get_string();
  if (content.is_array()) {
    json::array& parts = content.get_array();
    for (size_t i = parts.size(); i-- > 0;) {
      if (json::value* text = parts[i].get_object().if_contains("text")) return text->get_string();
    }
  }
  refuse("continue_final_message",
         "`continue_final_message` is set but the final message has no text to continue");
}

std::string render(const ChatRenderer& chat, Conversation conversation, bool goes_on,
                   const std::string& adapter) {
  if (!goes_on) return render_chat(chat, conversation, adapter);
  final_text(conversation.messages).append(kMark);
  std::string prompt = render_chat(chat, conversation, adapter);
  const std::string_view mark = without_spaces_at_end(kMark);
  const size_t at = prompt.rfind(mark);
  if (at == std::string::npos) {
    throw ApiError(ErrorKind::kTemplate,
                   "`continue_final_message` is set but the chat template does not put the final "
                   "message's text into the prompt",
                   "continue_final_message");
  }
  const bool keeps_spaces = prompt.compare(at, kMark.size(), kMark) == 0;
  prompt.resize(at);
  if (!keeps_spaces) prompt.resize(without_spaces_at_end(prompt).size());
  return prompt;
}

// What messages have beside role and content, without what asks for nothing.
std::set<std::string> further_fields(const json::array& messages) {
  std::set<std::string> names;
  for (const json::value& message : messages) {
    for (const auto& [key, value] : message.get_object()) {
      const bool matters = asks_for_something(FieldPlace::kMessage, key, value) ||
                           !is_known_default(FieldPlace::kMessage, key, value);
      if (!is_plain(key) && matters) names.emplace(key);
    }
  }
  return names;
}

json::array without_further_fields(json::array messages) {
  for (json::value& message : messages) {
    json::object& object = message.get_object();
    for (auto field = object.begin(); field != object.end();) {
      field = is_plain(field->key()) ? std::next(field) : object.erase(field);
    }
  }
  return messages;
}

// Whether the template reads any of them: it shows in the prompt.
bool reads_further_fields(const ChatRenderer& chat, Conversation conversation, bool goes_on,
                          const std::string& adapter, const std::string& prompt) {
  conversation.messages = without_further_fields(std::move(conversation.messages));
  try {
    return render(chat, std::move(conversation), goes_on, adapter) != prompt;
  } catch (const ApiError&) {
    return true;
  }
}

void take_further_fields(const json::array& messages, IgnoredFields& ignored) {
  for (size_t i = 0; i < messages.size(); ++i) {
    for (const auto& [key, value] : messages[i].get_object()) {
      if (is_plain(key) || !asks_for_something(FieldPlace::kMessage, key, value)) continue;
      refuse("messages", fmt::format("`messages[{}].{}` is not supported: the chat template does "
                                     "not read it; leave it out",
                                     i, std::string_view(key)));
    }
  }
  for (const std::string& name : further_fields(messages)) ignored.push_back("messages." + name);
}

}  // namespace

std::string prompt_of_chat(const ChatRenderer& chat, const json::array& messages,
                           ChatOptions options, const std::string& adapter,
                           IgnoredFields& ignored) {
  take_options(options);
  const bool goes_on = options.continue_final_message;
  for (const auto& [key, value] : options.chat_template_kwargs) {
    if (!chat.reads(key, adapter)) ignored.push_back("chat_template_kwargs." + std::string(key));
  }
  Conversation conversation;
  conversation.messages = messages;
  conversation.add_generation_prompt = options.add_generation_prompt.value_or(!goes_on);
  conversation.variables = std::move(options.chat_template_kwargs);
  std::string prompt = render(chat, conversation, goes_on, adapter);
  if (!further_fields(messages).empty() &&
      !reads_further_fields(chat, std::move(conversation), goes_on, adapter, prompt)) {
    take_further_fields(messages, ignored);
  }
  return prompt;
}

}  // namespace lorax
