#include "server/openai/chat_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "formats/printable.h"
#include "server/api/prompt_tokens.h"
#include "server/api/response_headers.h"
#include "server/openai/chat_prompt.h"

namespace lorax {
namespace {

namespace json = boost::json;

constexpr std::string_view kRoles[] = {"system",    "developer", "user",
                                       "assistant", "tool",      "function"};

[[noreturn]] void bad_message(size_t index, const std::string& problem) {
  refuse("messages", fmt::format("`messages[{}]` {}", index, problem));
}

std::string_view text_field(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_string() ? std::string_view(value->get_string()) : "";
}

void check_part(const json::value& part, size_t index) {
  if (!part.is_object()) bad_message(index, "has a content part that is no object");
  const json::object& object = part.get_object();
  const std::string_view type = text_field(object, "type");
  if (type != "text") {
    bad_message(index, fmt::format("has a content part of type \"{}\"; this server takes \"text\" "
                                   "only",
                                   printable(type)));
  }
  const json::value* text = object.if_contains("text");
  if (text == nullptr || !text->is_string()) bad_message(index, "has a text part without a text");
}

void check_content(const json::object& message, std::string_view role, size_t index) {
  const json::value* content = message.if_contains("content");
  if (content == nullptr || content->is_null()) {
    if (role != "assistant") bad_message(index, "has no `content`");
  } else if (content->is_array()) {
    for (const json::value& part : content->get_array()) check_part(part, index);
  } else if (!content->is_string()) {
    bad_message(index, "has a `content` that is neither a string nor a list of parts");
  }
}

json::object checked_message(const json::value& value, size_t index) {
  if (!value.is_object()) bad_message(index, "must be an object; given " + fields::shown(value));
  json::object message = value.get_object();
  const std::string role(text_field(message, "role"));
  if (std::ranges::find(kRoles, role) == std::end(kRoles)) {
    bad_message(index, fmt::format("has the role \"{}\"; roles are {}", printable(role),
                                   fmt::join(kRoles, ", ")));
  }
  check_content(message, role, index);
  // OpenAI's newer name of the same.
  if (role == "developer") message["role"] = "system";
  if (!message.contains("content")) message["content"] = nullptr;
  return message;
}

void read_messages(const json::value& value, json::array& messages) {
  if (!value.is_array()) fields::wrong_type(value, "messages", "a list of messages");
  const json::array& list = value.get_array();
  if (list.empty()) refuse("messages", "`messages` is empty; give at least one message");
  for (size_t i = 0; i < list.size(); ++i) messages.push_back(checked_message(list[i], i));
}

Field<ChatBody> messages_field() {
  Field<ChatBody> messages;
  messages.name = "messages";
  messages.is_required = true;
  const json::object part = {
      {"type", "object"},
      {"properties", {{"type", {{"const", "text"}}}, {"text", {{"type", "string"}}}}},
      {"required", {"type", "text"}}};
  const json::object content = {
      {"anyOf", {{{"type", "string"}}, {{"type", "array"}, {"items", part}}, {{"type", "null"}}}}};
  const json::object message = {
      {"type", "object"},
      {"properties",
       {{"role", {{"type", "string"}, {"enum", json::array(std::begin(kRoles), std::end(kRoles))}}},
        {"content", content},
        {"name", {{"type", "string"}}}}},
      {"required", {"role", "content"}}};
  messages.schema = {{"type", "array"}, {"items", message}, {"minItems", 1}};
  fields::document(messages.schema,
                   {"The conversation so far, as the model's chat template takes it.",
                    R"([{"role": "user", "content": "Who are you?"}])"});
  messages.read = [](const json::value& value, ChatBody& body) {
    read_messages(value, body.messages);
  };
  return messages;
}

// Tools are offered to nobody: a request that wants none called is answered, others are refused.
Field<ChatBody> offer_field(const char* name, bool ChatBody::*offers) {
  Field<ChatBody> field;
  field.name = name;
  field.schema = {{"type", {"array", "null"}}};
  fields::document(field.schema, {"Not supported by this server, unless the choice among them is "
                                  "\"none\"."});
  field.read = [name, offers](const json::value& value, ChatBody& body) {
    if (!value.is_array()) fields::wrong_type(value, name, "a list");
    body.*offers = !value.get_array().empty();
  };
  return field;
}

Field<ChatBody> offer_choice_field(const char* name, bool ChatBody::*declines) {
  Field<ChatBody> field;
  field.name = name;
  field.schema = {{"enum", {"none", "auto", nullptr}}};
  fields::document(field.schema, {"Which of them to call; this server calls none."});
  field.read = [name, declines](const json::value& value, ChatBody& body) {
    body.*declines = value == "none";
    if (value == "none" || value == "auto" || asks_for_nothing(value)) return;
    refuse(name, fmt::format("`{}` other than \"none\" and \"auto\" is not supported by this "
                             "server; leave it out",
                             name));
  };
  return field;
}

void check_offers(const ChatBody& body) {
  const auto check = [](const char* name, const char* choice, bool offers, bool declines) {
    if (!offers || declines) return;
    refuse(name, fmt::format("`{}` is not supported by this server; leave it out, or set `{}` to "
                             "\"none\"",
                             name, choice));
  };
  check("tools", "tool_choice", body.offers_tools, body.declines_tools);
  check("functions", "function_call", body.offers_functions, body.declines_functions);
}

void add_template_fields(FieldTable<ChatBody>& table) {
  using B = ChatBody;
  table.push_back(field<B>("add_generation_prompt", &B::add_generation_prompt,
                           {"End the prompt where an answer begins. None: yes, unless "
                            "`continue_final_message` is set."}));
  table.push_back(field<B>("continue_final_message", &B::continue_final_message,
                           {"Continue the text of the last message instead of answering it."}));
  Field<B> variables;
  variables.name = "chat_template_kwargs";
  variables.schema = {{"type", {"object", "null"}}};
  fields::document(variables.schema, {"More variables for the chat template.", R"({})"});
  variables.read = [](const json::value& value, B& body) {
    if (!value.is_object()) fields::wrong_type(value, "chat_template_kwargs", "an object");
    body.chat_template_kwargs = value.get_object();
  };
  table.push_back(std::move(variables));
  table.push_back(offer_field("tools", &B::offers_tools));
  table.push_back(offer_choice_field("tool_choice", &B::declines_tools));
  table.push_back(offer_field("functions", &B::offers_functions));
  table.push_back(offer_choice_field("function_call", &B::declines_functions));
}

}  // namespace

FieldTable<ChatBody> chat_fields(const ApiSettings& settings) {
  using B = ChatBody;
  FieldTable<B> table;
  table.push_back(messages_field());
  add_openai_fields(table, settings);
  table.push_back(field<B>("max_completion_tokens", &B::max_completion_tokens, {.above = 0},
                           {"Tokens to generate at most. None: as many as the server's limits "
                            "leave.",
                            "20"}));
  table.push_back(field<B>("max_tokens", &B::max_tokens, {.above = 0},
                           {"The older name of max_completion_tokens.", "20"}));
  table.push_back(field<B>("logprobs", &B::logprobs, {"Report logprobs of the tokens."}));
  table.push_back(
      field<B>("top_logprobs", &B::top_logprobs,
               {.at_least = 0, .at_most = static_cast<double>(settings.max_alternatives)},
               {"With `logprobs`: report so many most likely tokens, too.", "2"}));
  add_template_fields(table);
  return table;
}

ChatPlan plan_chat(const ApiContext& context, const FieldTable<ChatBody>& table,
                   const ChatBody& body, const Tenant* tenant) {
  AdapterChoice adapter = choose_model(context, body, tenant);
  check_fields(table, body);
  check_offers(body);
  if (body.top_logprobs.value_or(0) > 0 && !body.logprobs) {
    refuse("top_logprobs", "`top_logprobs` needs `logprobs` to be true");
  }
  ChatPlan plan;
  plan.ignored = body.ignored;
  const std::string text =
      prompt_of_chat(context.chat, body.messages, body, adapter.id, plan.ignored);
  const std::vector<int32_t> prompt =
      encode_prompt(context.tokenizer, text, /*adds_bos=*/false, truncation_of(context, body));
  if (prompt.empty()) refuse("messages", "`messages` give no token; write some text");

  plan.characters = count_characters(text);
  plan.has_logprobs = body.logprobs;
  OpenAiShape shape;
  shape.prompt_field = "messages";
  shape.max_field = body.max_completion_tokens ? "max_completion_tokens" : "max_tokens";
  shape.max_new_tokens = body.max_completion_tokens ? body.max_completion_tokens : body.max_tokens;
  shape.alternatives = static_cast<int32_t>(body.top_logprobs.value_or(0));
  static_cast<OpenAiPlan&>(plan) = plan_openai(context, body, std::move(adapter), {prompt}, shape);
  return plan;
}

}  // namespace lorax
