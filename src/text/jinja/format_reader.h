// Reads a format, or a part of one, from its front.
#pragma once

#include <algorithm>
#include <cctype>
#include <string_view>

#include "text/jinja/value.h"

namespace lorax::jinja {

// Widths and precisions above it are refused.
inline constexpr size_t kMaxFormatWidth = 1 << 20;

class FormatReader {
 public:
  explicit FormatReader(std::string_view text) : text_(text) {}

  bool done() const { return text_.empty(); }
  char peek() const { return text_.empty() ? '\0' : text_[0]; }
  std::string_view rest() const { return text_; }
  char take() {
    const char c = peek();
    if (!text_.empty()) text_.remove_prefix(1);
    return c;
  }
  bool take_if(char c) {
    if (peek() != c || done()) return false;
    take();
    return true;
  }
  std::string_view take_until(std::string_view stops) {
    const size_t end = std::min(text_.find_first_of(stops), text_.size());
    const std::string_view taken = text_.substr(0, end);
    text_.remove_prefix(end);
    return taken;
  }
  size_t take_number() {
    size_t number = 0;
    while (std::isdigit(static_cast<unsigned char>(peek())) != 0) {
      number = number * 10 + static_cast<size_t>(take() - '0');
      if (number > kMaxFormatWidth) raise("a format is wider than {} characters", kMaxFormatWidth);
    }
    return number;
  }

 private:
  std::string_view text_;
};

}  // namespace lorax::jinja
