#include "adapters/peft/python_syntax.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>

namespace lorax {
namespace {

constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }
constexpr bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
constexpr bool is_hex(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

// Walks a pattern from left to right. Each step returns a problem, or "".
class Scanner {
 public:
  explicit Scanner(std::string_view pattern) : pattern_(pattern) {}

  std::string scan() {
    while (at_ < pattern_.size()) {
      std::string problem = step();
      if (!problem.empty()) return problem;
    }
    return "";
  }

 private:
  char peek(size_t ahead = 0) const {
    return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
  }
  bool starts(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }

  std::string step() {
    switch (peek()) {
      case '\\':
        return escape(false);
      case '(':
        return group();
      case '[':
        return set();
      case '{':
        if (is_short_repeat()) return "{,n}: write {0,n}";
        break;
      default:
        break;
    }
    ++at_;
    return "";
  }

  // "{,3}" and "{,}" repeat in Python; all else after "{," is text to both.
  bool is_short_repeat() const {
    size_t ahead = 2;
    while (is_digit(peek(ahead))) ++ahead;
    return peek(1) == ',' && peek(ahead) == '}';
  }

  std::string escape(bool in_set) {
    const char c = peek(1);
    if (at_ + 1 == pattern_.size()) return "a backslash at its end";
    if (c == 'x') {
      if (!is_hex(peek(2)) || !is_hex(peek(3))) return "\\x without two hexadecimal digits";
      at_ += 4;
      return "";
    }
    constexpr std::string_view kEverywhere = "bdDsSwWafnrt";
    constexpr std::string_view kOutsideSets = "ABZ";
    if (is_letter(c) && kEverywhere.find(c) == std::string_view::npos &&
        (in_set || kOutsideSets.find(c) == std::string_view::npos)) {
      return fmt::format("\\{}, which is not supported", c);
    }
    if (is_digit(c) && (in_set || c == '0' || is_digit(peek(2)))) {
      return "an octal escape, which is not supported";
    }
    at_ += 2;
    return "";
  }

  std::string group() {
    if (peek(1) == '*') return "(*, which is not supported";
    if (peek(1) != '?') {
      ++at_;
      return "";
    }
    for (std::string_view known : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?P<", "(?P=", "(?>"}) {
      if (starts(known)) {
        at_ += known.size();
        return "";
      }
    }
    if (starts("(?#")) {
      const size_t end = pattern_.find(')', at_);
      if (end == std::string_view::npos) return "a comment without an end";
      at_ = end + 1;
      return "";
    }
    return flags();
  }

  // "(?is)" at the very start, or "(?i:...)" anywhere.
  std::string flags() {
    size_t end = at_ + 2;
    const auto is_flag = [](char c) { return c == 'i' || c == 's' || c == 'm' || c == '-'; };
    while (end < pattern_.size() && is_flag(pattern_[end])) ++end;
    const char after = end < pattern_.size() ? pattern_[end] : '\0';
    const std::string_view text = pattern_.substr(at_, end - at_);
    const bool scoped = after == ':';
    const bool global = after == ')' && at_ == 0 && text.find('-') == std::string_view::npos;
    if (text.size() == 2 || !(scoped || global)) {
      return fmt::format("{}, which is not supported there", pattern_.substr(at_, 3));
    }
    at_ = end + 1;
    return "";
  }

  std::string set() {
    ++at_;
    if (peek() == '^') ++at_;
    bool first = true;
    while (at_ < pattern_.size() && (first || peek() != ']')) {
      first = false;
      if (peek() == '[' && (peek(1) == ':' || peek(1) == '.' || peek(1) == '=')) {
        return "a POSIX class, which is not supported";
      }
      if (peek() == '\\') {
        std::string problem = escape(true);
        if (!problem.empty()) return problem;
      } else {
        ++at_;
      }
    }
    if (at_ == pattern_.size()) return "a set without its ]";
    ++at_;
    return "";
  }

  std::string_view pattern_;
  size_t at_ = 0;
};

}  // namespace

std::string python_syntax_problem(std::string_view pattern) { return Scanner(pattern).scan(); }

}  // namespace lorax
