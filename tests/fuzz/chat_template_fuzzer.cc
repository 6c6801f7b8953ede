// A chat template from foreign hands, a zero byte and the content of a message: it is rendered, as
// valid UTF-8, or is an Error of one line.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/error.h"
#include "base/utf8.h"
#include "text/chat_formatter.h"
#include "text/chat_template.h"

namespace lorax {
namespace {

void check_message(std::string_view message) {
  LORAX_CHECK(message.size() < 4000, "{} bytes", message.size());
  LORAX_CHECK(
      std::ranges::none_of(message, [](char c) { return static_cast<unsigned char>(c) < 0x20; }),
      "{}", message);
}

ChatInput make_input(std::string_view content) {
  ChatInput input;
  input.messages = {{{"role", "system"}, {"content", "Be brief."}},
                    {{"role", "user"}, {"content", content}},
                    {{"role", "assistant"}, {"content", nullptr}, {"tool_calls", {{{"id", 1.5}}}}}};
  input.tools = {{{"type", "function"}, {"function", {{"name", "f"}, {"parameters", {}}}}}};
  input.bos_token = "<bos>";
  input.now = 0;
  return input;
}

void fuzz_template(std::string_view input) {
  const size_t end = std::min(input.find('\0'), input.size());
  const std::string_view content = input.substr(std::min(end + 1, input.size()));
  try {
    const ChatTemplate chat_template = ChatTemplate::parse(input.substr(0, end), "fuzz");
    const ChatFormatter formatter(chat_template, {});
    LORAX_CHECK(is_valid_utf8(formatter.render(make_input(content))));
  } catch (const Error& error) {
    check_message(error.what());
  }
}

}  // namespace
}  // namespace lorax

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  lorax::fuzz_template({reinterpret_cast<const char*>(data), size});
  return 0;
}
