#include "text/chat_formatter.h"

#include <algorithm>
#include <iterator>
#include <optional>

#include "base/quote_token.h"

namespace lorax {
namespace {

namespace json = boost::json;

// What the template makes of the messages; nothing if it refuses them.
std::optional<std::string> try_render(const ChatTemplate& chat_template, json::array messages) {
  ChatInput input;
  input.messages = std::move(messages);
  input.bos_token = "";
  input.eos_token = "";
  try {
    return chat_template.render(input);
  } catch (const TemplateError&) {
    return std::nullopt;
  }
}

json::object message(std::string_view role, json::value content) {
  return {{"role", role}, {"content", std::move(content)}};
}

json::object text_part(std::string_view text) { return {{"type", "text"}, {"text", text}}; }

bool has_role(const json::value& message, std::string_view role) {
  const json::object* object = message.if_object();
  const json::value* found = object == nullptr ? nullptr : object->if_contains("role");
  return found != nullptr && found->is_string() && found->get_string() == role;
}

// The text of a content: itself, or that of its parts.
std::string text_of(const json::value& content) {
  if (content.is_string()) return std::string(content.get_string());
  std::string text;
  if (content.is_null()) return text;
  if (!content.is_array())
    jinja::raise("a message's content must be a string or an array of parts");
  for (const json::value& part : content.get_array()) {
    const json::object* object = part.if_object();
    const json::value* type = object == nullptr ? nullptr : object->if_contains("type");
    const json::value* found = object == nullptr ? nullptr : object->if_contains("text");
    if (type == nullptr || !type->is_string() || type->get_string() != "text" || found == nullptr ||
        !found->is_string()) {
      jinja::raise("a content part of type {}: this model's chat template takes text only",
                   type != nullptr && type->is_string() ? quote_token(type->get_string()) : "\"\"");
    }
    text += found->get_string();
  }
  return text;
}

void join_parts(json::array& messages) {
  for (json::value& message : messages) {
    json::object* object = message.if_object();
    json::value* content = object == nullptr ? nullptr : object->if_contains("content");
    if (content != nullptr && content->is_array()) *content = json::value(text_of(*content));
  }
}

// Puts a text before that of a content.
json::value prepend(const std::string& text, const json::value& content) {
  if (!content.is_array()) return json::value(text + text_of(content));
  json::array parts = {text_part(text)};
  parts.insert(parts.end(), content.get_array().begin(), content.get_array().end());
  return parts;
}

// Moves the system messages at the start into the first user's message; if there is none they stay.
void fold_system(json::array& messages) {
  const auto is_system = [](const json::value& message) { return has_role(message, "system"); };
  const auto is_user = [](const json::value& message) { return has_role(message, "user"); };
  const auto first = std::find_if_not(messages.begin(), messages.end(), is_system);
  const auto user = std::find_if(first, messages.end(), is_user);
  if (first == messages.begin() || user == messages.end()) return;
  std::string text;
  for (auto it = messages.begin(); it != first; ++it) {
    const json::value* content = it->get_object().if_contains("content");
    if (content != nullptr) text += text_of(*content) + "\n\n";
  }
  json::value& content = user->get_object()["content"];
  content = prepend(text, content);
  messages.erase(messages.begin(), first);
}

}  // namespace

ChatFormatter::ChatFormatter(const ChatTemplate& chat_template, Options options)
    : template_(chat_template), options_(options) {
  const json::object user = message("user", "Probe");
  const auto plain = try_render(template_, {user});
  // A template that refuses even this says nothing by refusing more.
  if (!plain) return;
  takes_system_ = try_render(template_, {message("system", "Probe"), user}).has_value();
  const json::array parts = {text_part("Probe")};
  takes_parts_ = try_render(template_, {message("user", parts)}) == plain;
}

std::string ChatFormatter::render(ChatInput input) const {
  if (!takes_parts_) join_parts(input.messages);
  if (!takes_system_ && options_.fold_system) fold_system(input.messages);
  return template_.render(input);
}

}  // namespace lorax
