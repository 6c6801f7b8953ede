#include "base/quote_token.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"

namespace lorax {

std::string quote_token(std::string_view token) {
  constexpr size_t kMaxBytes = 64;
  std::string out = "\"";
  size_t at = 0;
  while (at < token.size() && at < kMaxBytes) {
    const size_t length = utf8_sequence_length(token.substr(at));
    const auto byte = static_cast<unsigned char>(token[at]);
    if (length == 0 || byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += token.substr(at, length);
    }
    at += std::max<size_t>(length, 1);
  }
  return out += at < token.size() ? "...\"" : "\"";
}

}  // namespace lorax
