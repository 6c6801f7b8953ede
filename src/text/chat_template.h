// A chat template as Hugging Face's tokenizers have them: the messages of a conversation to the
// text of a prompt. Renders what transformers renders (jinja/ has the language), within limits.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include "text/jinja/template_error.h"

namespace lorax {

// What a template is given.
struct ChatInput {
  // As in OpenAI's API: objects with "role", "content" (a string or an array of typed parts) and
  // what else the template knows ("name", "tool_calls"). Fields that are null count as missing.
  boost::json::array messages;
  std::optional<std::string> bos_token;  // undefined in the template if the tokenizer has none
  std::optional<std::string> eos_token;
  bool add_generation_prompt = true;
  boost::json::value tools;        // an array, or null
  boost::json::value documents;    // an array, or null
  boost::json::object variables;   // more of them, which go before those above
  std::optional<std::time_t> now;  // what strftime_now tells; the clock's time if missing
};

// Immutable; all methods are thread-safe.
class ChatTemplate {
 public:
  static constexpr size_t kMaxBytes = size_t{1} << 20;

  // Throws Error that begins with `origin`, names the line and the construct, for a text that is no
  // template or needs what this program cannot render.
  static ChatTemplate parse(std::string_view text, std::string_view origin);

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // The prompt, valid UTF-8. Throws TemplateRaised with the template's own message if it refuses
  // the input by raise_exception, else TemplateError that begins with the origin and names the
  // line: an undefined value used, values of the wrong type, more steps or memory than a rendering
  // may take.
  std::string render(const ChatInput& input) const;

  size_t text_bytes() const;
  // Whether the template reads a variable, such as "tools".
  bool uses(std::string_view variable) const;

 private:
  struct Parsed;
  explicit ChatTemplate(std::unique_ptr<const Parsed> parsed);

  std::unique_ptr<const Parsed> parsed_;
};

}  // namespace lorax
