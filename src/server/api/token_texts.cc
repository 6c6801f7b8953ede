#include "server/api/token_texts.h"

#include <utility>

#include "base/utf8.h"
#include "server/api/token_offsets.h"

namespace lorax {

std::vector<std::string> TokenTexts::push(const TokenInfo& token) {
  const std::string_view piece = tokenizer_.piece(token.id);
  const bool is_left_out = token.special || piece.empty();
  if (const auto byte = byte_of_piece(piece); byte && !is_left_out) {
    run_.push_back({byte, ""});
    return {};
  }
  if (is_left_out) {
    if (run_.empty()) return {token.text};
    run_.push_back({std::nullopt, token.text});
    return {};
  }
  std::vector<std::string> texts = finish();
  texts.push_back(detokenizer_.push(token.id));
  return texts;
}

std::vector<std::string> TokenTexts::finish() {
  std::string bytes;
  for (const Waiting& waiting : run_) {
    if (waiting.byte) bytes += static_cast<char>(*waiting.byte);
  }
  const bool is_text = is_valid_utf8(bytes);
  std::vector<std::string> texts;
  std::string character;
  for (Waiting& waiting : std::exchange(run_, {})) {
    std::string& text = texts.emplace_back(std::move(waiting.text));
    if (!waiting.byte) continue;
    character += static_cast<char>(*waiting.byte);
    if (!is_text) {
      text = "\xEF\xBF\xBD";
    } else if (is_valid_utf8(character)) {
      text = std::exchange(character, {});
    }
  }
  return texts;
}

}  // namespace lorax
