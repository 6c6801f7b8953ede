#include "text/text_decoder.h"

#include <charconv>
#include <optional>

#include "base/utf8.h"

namespace lorax {
namespace {

// The byte that a piece like <0x0A> stands for.
std::optional<char> byte_of(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece.back() != '>') return std::nullopt;
  unsigned value = 0;
  const char* end = piece.data() + 5;
  const auto result = std::from_chars(piece.data() + 3, end, value, 16);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return static_cast<char>(value);
}

}  // namespace

std::string TextDecoding::push(std::string_view piece) {
  std::string text(piece);
  for (const Replacement& replace : decoder_.replacements) {
    text = replace_all(text, replace.pattern, replace.content);
  }
  if (decoder_.byte_fallback) {
    if (const std::optional<char> byte = byte_of(text)) {
      bytes_.push_back(*byte);
      return {};
    }
  }
  std::string out;
  flush_bytes(out);
  emit(text, out);
  return out;
}

std::string TextDecoding::finish() {
  std::string out;
  flush_bytes(out);
  return out;
}

void TextDecoding::flush_bytes(std::string& out) {
  if (is_valid_utf8(bytes_)) {
    emit(bytes_, out);
  } else {
    for (size_t i = 0; i < bytes_.size(); ++i) emit("\xEF\xBF\xBD", out);
  }
  bytes_.clear();
}

void TextDecoding::emit(std::string_view text, std::string& out) {
  while (strip_left_ > 0 && !text.empty()) {
    if (text.starts_with(decoder_.strip_content)) {
      text.remove_prefix(decoder_.strip_content.size());
      --strip_left_;
    } else {
      strip_left_ = 0;
    }
  }
  out.append(text);
}

}  // namespace lorax
