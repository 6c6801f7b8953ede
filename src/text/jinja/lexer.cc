#include "text/jinja/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "base/quote_token.h"
#include "text/jinja/python_number.h"
#include "text/jinja/string_literal.h"
#include "text/jinja/unicode.h"

namespace lorax::jinja {
namespace {

// Line ends as \n, and without the last one.
std::string normalize(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
    out += source[i] == '\r' ? '\n' : source[i];
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

bool is_number_digit(char c) { return c >= '0' && c <= '9'; }

bool is_digit_of(char c, int base) {
  if (base == 16) return is_number_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
  return c >= '0' && c < '0' + base;
}

// Digits with single underscores between them, from `at`; the end of it.
size_t skip_digits(std::string_view text, size_t at, int base = 10) {
  while (at < text.size()) {
    if (is_digit_of(text[at], base)) {
      ++at;
    } else if (text[at] == '_' && at + 1 < text.size() && is_digit_of(text[at + 1], base)) {
      at += 2;
    } else {
      break;
    }
  }
  return at;
}

class Lexer {
 public:
  Lexer(std::string source, std::string_view origin)
      : source_(std::move(source)), origin_(origin) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) read_data();
    add(Token::Type::kEnd, {});
    return std::move(tokens_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void fail_here(fmt::format_string<Args...> format, Args&&... args) const {
    fail("{}: line {}: {}", origin_, line_, fmt::format(format, std::forward<Args>(args)...));
  }

  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  bool looking_at(std::string_view text) const { return rest().starts_with(text); }

  void add(Token::Type type, std::string text, Value number = {}) {
    tokens_.push_back({type, line_, std::move(text), std::move(number)});
  }

  // Goes on by `bytes` and counts the lines in them.
  void advance(size_t bytes) {
    line_ += static_cast<int>(std::ranges::count(rest().substr(0, bytes), '\n'));
    at_ += bytes;
    line_starts_ = at_ > 0 && source_[at_ - 1] == '\n';
  }

  void skip_space() { advance(rest().size() - strip_left(rest()).size()); }

  // The sign behind the two characters that begin a tag, or 0.
  char sign_at(size_t at) const {
    const char c = at < source_.size() ? source_[at] : '\0';
    return c == '-' || c == '+' ? c : '\0';
  }

  // What is left of the text before a tag: '-' strips white space, lstrip_blocks the blanks of a
  // line that has nothing else before a block or a comment.
  std::string_view strip_before(std::string_view text, char sign, bool is_variable) const {
    if (sign == '-') return strip_right(text);
    if (sign == '+' || is_variable) return text;
    const size_t newline = text.rfind('\n');
    const size_t line = newline == std::string_view::npos ? 0 : newline + 1;
    if (line == 0 && !line_starts_) return text;
    return strip_left(text.substr(line)).empty() ? text.substr(0, line) : text;
  }

  void read_data() {
    size_t tag = at_;
    for (; tag < source_.size(); ++tag) {
      tag = std::min(source_.find('{', tag), source_.size());
      if (tag + 1 >= source_.size()) {
        tag = source_.size();
        break;
      }
      const char next = source_[tag + 1];
      if (next == '{' || next == '%' || next == '#') break;
    }
    const std::string_view text = std::string_view(source_).substr(at_, tag - at_);
    if (tag >= source_.size()) {
      add(Token::Type::kData, std::string(text));
      advance(text.size());
      return;
    }
    const char kind = source_[tag + 1];
    const char sign = sign_at(tag + 2);
    const std::string_view kept = strip_before(text, sign, kind == '{');
    if (!kept.empty()) add(Token::Type::kData, std::string(kept));
    advance(text.size());
    if (kind == '%' && read_raw()) return;
    const size_t begin = at_;
    advance(sign == '\0' ? 2 : 3);
    line_starts_ = false;
    if (kind == '#') {
      read_comment();
      return;
    }
    const bool is_block = kind == '%';
    add(is_block ? Token::Type::kBlockBegin : Token::Type::kVariableBegin,
        source_.substr(begin, 2));
    read_tag(is_block);
  }

  // Skips the end of a tag, "}}" or the like, and the white space that goes with it. False if the
  // text does not stand here.
  bool take_end(std::string_view end, bool trims_line) {
    if (looking_at("-") && rest().substr(1).starts_with(end)) {
      advance(1 + end.size());
      skip_space();
      return true;
    }
    if (trims_line && looking_at("+") && rest().substr(1).starts_with(end)) {
      advance(1 + end.size());
      return true;
    }
    if (!looking_at(end)) return false;
    advance(end.size());
    if (trims_line && looking_at("\n")) advance(1);
    return true;
  }

  void read_comment() {
    const int line = line_;
    if (at_ == source_.size()) return;  // nothing is left that could lack an end
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail("{}: line {}: a comment has no end, #}}", origin_, line);
    const bool has_sign = end > at_ && sign_at(end - 1) != '\0';
    advance(end - at_ - (has_sign ? 1 : 0));
    take_end("#}", true);
  }

  // {% raw %} up to {% endraw %}; false if no raw block stands here.
  bool read_raw() {
    size_t at = at_ + 2;
    if (sign_at(at) != '\0') ++at;
    const auto skip = [&](std::string_view word) {
      std::string_view left = strip_left(std::string_view(source_).substr(at));
      if (!left.starts_with(word)) return false;
      left = strip_left(left.substr(word.size()));
      at = source_.size() - left.size();
      return true;
    };
    if (!skip("raw")) return false;
    const bool strips = source_.compare(at, 3, "-%}") == 0;
    if (!strips && source_.compare(at, 2, "%}") != 0) return false;
    advance(at + (strips ? 3 : 2) - at_);
    if (strips) skip_space();
    if (at_ == source_.size()) return true;
    for (size_t end = source_.find("{%", at_); end != std::string::npos;
         end = source_.find("{%", end + 1)) {
      const char sign = sign_at(end + 2);
      at = end + (sign == '\0' ? 2 : 3);
      if (!skip("endraw")) continue;
      const char closing = sign_at(at);
      if (source_.compare(at + (closing == '\0' ? 0 : 1), 2, "%}") != 0) continue;
      const std::string_view text = std::string_view(source_).substr(at_, end - at_);
      const std::string_view kept = strip_before(text, sign, false);
      if (!kept.empty()) add(Token::Type::kData, std::string(kept));
      advance(at - at_);
      take_end("%}", true);
      return true;
    }
    fail_here("a raw block has no end, {{% endraw %}}");
  }

  void read_tag(bool is_block) {
    const int line = line_;
    const std::string_view end = is_block ? "%}" : "}}";
    open_.clear();
    while (at_ < source_.size()) {
      const int end_line = line_;
      if (open_.empty() && take_end(end, is_block)) {
        tokens_.push_back({is_block ? Token::Type::kBlockEnd : Token::Type::kVariableEnd,
                           end_line,
                           std::string(end),
                           {}});
        return;
      }
      read_token();
    }
    fail("{}: line {}: a tag has no end, {}", origin_, line, end);
  }

  void read_token() {
    const char32_t code = code_point_at(source_, at_);
    if (is_space(code)) {
      skip_space();
    } else if (code < 0x80 && is_number_digit(static_cast<char>(code))) {
      read_number();
    } else if (is_name_character(code)) {
      read_name();
    } else if (code == '"' || code == '\'') {
      read_string(static_cast<char>(code));
    } else {
      read_operator();
    }
  }

  void read_name() {
    size_t end = at_;
    while (end < source_.size() && is_name_character(code_point_at(source_, end))) {
      end += character_at(source_, end).size();
    }
    add(Token::Type::kName, source_.substr(at_, end - at_));
    advance(end - at_);
  }

  // The end of a float that begins here, or npos.
  size_t float_end() const {
    if (at_ > 0 && source_[at_ - 1] == '.') return std::string::npos;
    size_t end = skip_digits(source_, at_);
    bool is_float = false;
    if (end + 1 < source_.size() && source_[end] == '.' && is_number_digit(source_[end + 1])) {
      end = skip_digits(source_, end + 1);
      is_float = true;
    }
    if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      const size_t digits = end + (sign_at(end + 1) == '\0' ? 1 : 2);
      if (digits < source_.size() && is_number_digit(source_[digits])) {
        end = skip_digits(source_, digits);
        is_float = true;
      }
    }
    return is_float ? end : std::string::npos;
  }

  size_t integer_end() const {
    if (source_[at_] != '0') return skip_digits(source_, at_);
    constexpr std::array<std::pair<char, int>, 3> kBases = {{{'b', 2}, {'o', 8}, {'x', 16}}};
    for (const auto& base : kBases) {
      if (at_ + 2 >= source_.size() || (source_[at_ + 1] | 0x20) != base.first) continue;
      const size_t digits = at_ + (source_[at_ + 2] == '_' ? 3 : 2);
      const size_t end = skip_digits(source_, digits, base.second);
      if (end > digits) return end;
    }
    return skip_digits(source_, at_, 1);
  }

  void read_number() {
    size_t end = float_end();
    const bool is_float = end != std::string::npos;
    if (!is_float) end = integer_end();
    const std::string text = source_.substr(at_, end - at_);
    try {
      if (is_float) {
        add(Token::Type::kNumber, text, *parse_real(text));
      } else {
        add(Token::Type::kNumber, text, *parse_integer(text, 0));
      }
    } catch (const TemplateError& error) {
      fail_here("{}", error.what());
    }
    advance(end - at_);
  }

  void read_string(char quote) {
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail_here("a string has no end, {}", quote);
    const std::string_view inside = std::string_view(source_).substr(at_ + 1, end - at_ - 1);
    try {
      add(Token::Type::kString, unescape_string(inside));
    } catch (const TemplateError& error) {
      fail_here("{}", error.what());
    }
    advance(end + 1 - at_);
  }

  void read_operator() {
    constexpr std::string_view kDouble[] = {"//", "**", "==", "!=", ">=", "<="};
    constexpr std::string_view kSingle = "+-/*%~[](){}><=.:|,;";
    std::string_view found;
    for (const std::string_view candidate : kDouble) {
      if (looking_at(candidate)) found = candidate;
    }
    if (found.empty() && kSingle.find(source_[at_]) != std::string_view::npos) {
      found = rest().substr(0, 1);
    }
    if (found.empty())
      fail_here("unexpected character {}", quote_token(character_at(source_, at_)));
    balance(found[0]);
    add(Token::Type::kOperator, std::string(found));
    advance(found.size());
  }

  void balance(char c) {
    constexpr std::string_view kOpening = "([{";
    constexpr std::string_view kClosing = ")]}";
    if (const size_t kind = kOpening.find(c); kind != std::string_view::npos) {
      open_ += kClosing[kind];
    } else if (kClosing.find(c) != std::string_view::npos) {
      if (open_.empty()) fail_here("unexpected '{}'", c);
      if (open_.back() != c) fail_here("unexpected '{}', expected '{}'", c, open_.back());
      open_.pop_back();
    }
  }

  std::string source_;
  std::string_view origin_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starts_ = true;  // what was read last ended with a line's end, or nothing was read
  std::string open_;         // the brackets that must close, innermost last
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source, std::string_view origin) {
  return Lexer(normalize(source), origin).run();
}

}  // namespace lorax::jinja
