#include "text/jinja/python_number.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>
#include <string>

#include "text/jinja/unicode.h"

namespace lorax::jinja {
namespace {

int digit_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const int lower = std::tolower(static_cast<unsigned char>(c));
  return lower >= 'a' && lower <= 'z' ? lower - 'a' + 10 : 99;
}

// The base that a prefix such as 0x names; 0 if there is none.
int prefix_base(std::string_view text) {
  if (text.size() < 2 || text[0] != '0') return 0;
  switch (std::tolower(static_cast<unsigned char>(text[1]))) {
    case 'x':
      return 16;
    case 'o':
      return 8;
    case 'b':
      return 2;
    default:
      return 0;
  }
}

// Underscores may stand between digits only.
std::optional<std::string> without_underscores(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
    } else if (i == 0 || i + 1 == text.size() ||
               std::isalnum(static_cast<unsigned char>(text[i - 1])) == 0 ||
               std::isalnum(static_cast<unsigned char>(text[i + 1])) == 0) {
      return std::nullopt;
    }
  }
  return out;
}

bool take_sign(std::string_view& text) {
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  return negative;
}

}  // namespace

std::optional<Integer> parse_integer(std::string_view text, int base) {
  text = strip_right(strip_left(text));
  const bool negative = take_sign(text);
  const int prefix = prefix_base(text);
  bool prefixed = false;
  if (prefix != 0 && (base == 0 || base == prefix)) {
    base = prefix;
    text.remove_prefix(2);
    if (text.starts_with('_')) text.remove_prefix(1);
    prefixed = true;
  }
  const auto digits = without_underscores(text);
  if (!digits || digits->empty()) return std::nullopt;
  if (base == 0) {
    const bool zeros = std::ranges::all_of(*digits, [](char c) { return c == '0'; });
    if (!prefixed && (*digits)[0] == '0' && !zeros) return std::nullopt;
    base = 10;
  }
  Integer value = 0;
  for (const char c : *digits) {
    const int digit = digit_value(c);
    if (digit >= base) return std::nullopt;
    if (__builtin_mul_overflow(value, Integer{base}, &value) ||
        __builtin_add_overflow(value, Integer{digit}, &value)) {
      raise("an integer passes 127 bits");
    }
  }
  return negative ? -value : value;
}

std::optional<double> parse_real(std::string_view text) {
  text = strip_right(strip_left(text));
  const bool negative = take_sign(text);
  const std::string lower = to_lower(text);
  double value = 0;
  if (lower == "inf" || lower == "infinity") {
    value = std::numeric_limits<double>::infinity();
  } else if (lower == "nan") {
    value = std::numeric_limits<double>::quiet_NaN();
  } else {
    const auto digits = without_underscores(text);
    const bool begins =
        digits && !digits->empty() &&
        (std::isdigit(static_cast<unsigned char>((*digits)[0])) != 0 || (*digits)[0] == '.');
    if (!begins) return std::nullopt;
    const char* end = digits->data() + digits->size();
    const auto result = std::from_chars(digits->data(), end, value);
    if (result.ptr != end || result.ec == std::errc::invalid_argument) return std::nullopt;
    // Too large or too small: strtod says which.
    if (result.ec == std::errc::result_out_of_range) value = std::strtod(digits->c_str(), nullptr);
  }
  return negative ? -value : value;
}

std::optional<Integer> truncate_real(double value) {
  if (!std::isfinite(value)) return std::nullopt;
  if (std::fabs(value) >= std::ldexp(1.0, 126)) raise("an integer passes 127 bits");
  return static_cast<Integer>(value);
}

double round_real(double value, int digits) {
  if (!std::isfinite(value) || digits > 323) return value;
  if (digits < -308) return 0;
  if (digits >= 0) {
    // The decimal nearest to the exact binary value, ties to even, read back.
    return std::strtod(fmt::format("{:.{}f}", value, digits).c_str(), nullptr);
  }
  const double power = std::pow(10.0, -digits);
  return std::nearbyint(value / power) * power;
}

}  // namespace lorax::jinja
