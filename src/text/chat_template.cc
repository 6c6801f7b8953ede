#include "text/chat_template.h"

#include <algorithm>
#include <array>
#include <cctype>

#include <fmt/format.h>

#include "base/utf8.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/json_values.h"
#include "text/jinja/parser.h"

namespace lorax {
namespace {

namespace json = boost::json;

// A template's message may quote what it was given; an error's text is one line.
std::string one_line(std::string_view text) {
  constexpr size_t kMaxBytes = 1000;
  std::string out;
  for (const char c : replace_invalid_utf8(text)) {
    const auto byte = static_cast<unsigned char>(c);
    const bool starts_a_character = (byte & 0xC0) != 0x80;
    if (out.size() >= kMaxBytes && starts_a_character) return out + "...";
    if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return out;
}

// As transformers prepares a message: without its nulls, and with the reasoning of a message under
// the names that templates look for.
json::object prepare(const json::object& message) {
  json::object prepared;
  for (const auto& field : message) {
    if (!field.value().is_null()) prepared.insert(field);
  }
  constexpr std::array<std::string_view, 3> kReasoning = {"reasoning_content", "thinking",
                                                          "reasoning"};
  for (const std::string_view name : kReasoning) {
    const json::value* reasoning = prepared.if_contains(name);
    if (reasoning == nullptr) continue;
    json::object aliased = {{"thinking", *reasoning}};
    for (const auto& field : prepared) aliased.insert_or_assign(field.key(), field.value());
    aliased.insert_or_assign("reasoning_content", *reasoning);
    return aliased;
  }
  return prepared;
}

json::array prepare(const json::array& messages) {
  json::array prepared;
  for (const json::value& message : messages) {
    if (!message.is_object()) jinja::raise("a message must be an object");
    prepared.push_back(prepare(message.get_object()));
  }
  return prepared;
}

void set_variables(const ChatInput& input, jinja::Budget& budget, jinja::Interpreter& interpreter) {
  interpreter.set("messages", jinja::from_json(budget, prepare(input.messages)));
  interpreter.set("tools", jinja::from_json(budget, input.tools));
  interpreter.set("documents", jinja::from_json(budget, input.documents));
  interpreter.set("add_generation_prompt", input.add_generation_prompt);
  if (input.bos_token) {
    interpreter.set("bos_token", jinja::from_json(budget, json::value(*input.bos_token)));
  }
  if (input.eos_token) {
    interpreter.set("eos_token", jinja::from_json(budget, json::value(*input.eos_token)));
  }
  for (const auto& variable : input.variables) {
    interpreter.set(std::string_view(variable.key()), jinja::from_json(budget, variable.value()));
  }
}

}  // namespace

struct ChatTemplate::Parsed {
  std::string origin;
  size_t bytes = 0;
  jinja::Template parsed;
};

ChatTemplate::ChatTemplate(std::unique_ptr<const Parsed> parsed) : parsed_(std::move(parsed)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

ChatTemplate ChatTemplate::parse(std::string_view text, std::string_view origin) {
  if (text.size() > kMaxBytes) {
    fail("{}: a chat template of {} bytes is too long; at most {} are taken", origin, text.size(),
         kMaxBytes);
  }
  if (!is_valid_utf8(text)) fail("{}: the chat template is not valid UTF-8", origin);
  return ChatTemplate(std::make_unique<const Parsed>(
      Parsed{std::string(origin), text.size(), jinja::parse_template(text, origin)}));
}

std::string ChatTemplate::render(const ChatInput& input) const {
  jinja::Budget budget{jinja::Limits()};
  jinja::Interpreter interpreter(parsed_->parsed, budget, input.now.value_or(std::time(nullptr)));
  try {
    set_variables(input, budget, interpreter);
    budget.begin();
    return interpreter.render();
  } catch (const TemplateRaised& error) {
    throw TemplateRaised(one_line(error.what()));
  } catch (const TemplateError& error) {
    throw TemplateError(fmt::format("{}: line {}: {}", parsed_->origin, interpreter.line(),
                                    one_line(error.what())));
  }
}

size_t ChatTemplate::text_bytes() const { return parsed_->bytes; }

bool ChatTemplate::uses(std::string_view variable) const {
  return parsed_->parsed.names.read.contains(variable);
}

}  // namespace lorax
