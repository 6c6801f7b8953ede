#include "text/jinja/value_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "text/jinja/format_reader.h"
#include "text/jinja/operators.h"
#include "text/jinja/python_text.h"
#include "text/jinja/string_search.h"
#include "text/jinja/unicode.h"

namespace lorax::jinja {
namespace {

bool is_align(char c) { return c == '<' || c == '>' || c == '=' || c == '^'; }

std::string group_digits(const std::string& digits, char separator, size_t every) {
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % every == 0) out += separator;
    out += digits[i];
  }
  return out;
}

}  // namespace

FormatSpec parse_spec(std::string_view text) {
  FormatSpec spec;
  if (!text.empty()) {
    const std::string_view first = character_at(text, 0);
    if (text.size() > first.size() && is_align(text[first.size()])) {
      spec.fill = first;
      spec.align = text[first.size()];
      text.remove_prefix(first.size() + 1);
    } else if (is_align(text[0])) {
      spec.align = text[0];
      text.remove_prefix(1);
    }
  }
  FormatReader reader(text);
  if (reader.peek() == '+' || reader.peek() == '-' || reader.peek() == ' ')
    spec.sign = reader.take();
  spec.alternate = reader.take_if('#');
  spec.zero = reader.take_if('0');
  spec.width = reader.take_number();
  if (reader.peek() == ',' || reader.peek() == '_') spec.grouping = reader.take();
  if (reader.take_if('.')) {
    if (std::isdigit(static_cast<unsigned char>(reader.peek())) == 0) {
      raise("Format specifier missing precision");
    }
    spec.precision = static_cast<int>(reader.take_number());
  }
  spec.type = reader.take();
  if (!reader.done()) raise("Invalid format specifier");
  return spec;
}

std::string pad(Budget& budget, const FormatSpec& spec, std::string_view sign,
                std::string_view body, char default_align) {
  const size_t length = count_characters(sign) + count_characters(body);
  const char align = spec.align != 0 ? spec.align : spec.zero ? '=' : default_align;
  const std::string& fill = spec.align == 0 && spec.zero ? std::string("0") : spec.fill;
  if (length >= spec.width) return std::string(sign) + std::string(body);
  const size_t missing = spec.width - length;
  budget.allocate(missing, fill.size());
  const auto filling = [&](size_t count) {
    std::string out;
    while (count-- > 0) out += fill;
    return out;
  };
  const std::string whole = std::string(sign) + std::string(body);
  if (align == '<') return whole + filling(missing);
  if (align == '>') return filling(missing) + whole;
  if (align == '^') return filling(missing / 2) + whole + filling(missing - missing / 2);
  return std::string(sign) + filling(missing) + std::string(body);
}

std::string sign_of(const FormatSpec& spec, bool negative) {
  if (negative) return "-";
  return spec.sign == '-' ? "" : std::string(1, spec.sign);
}

std::string format_integer(Budget& budget, Integer value, const FormatSpec& spec) {
  const bool negative = value < 0;
  using Unsigned = unsigned __int128;
  const Unsigned magnitude =
      negative ? -static_cast<Unsigned>(value) : static_cast<Unsigned>(value);
  std::string digits;
  std::string prefix;
  switch (spec.type) {
    case 'x':
      digits = fmt::format("{:x}", magnitude);
      prefix = "0x";
      break;
    case 'X':
      digits = fmt::format("{:X}", magnitude);
      prefix = "0X";
      break;
    case 'o':
      digits = fmt::format("{:o}", magnitude);
      prefix = "0o";
      break;
    case 'b':
      digits = fmt::format("{:b}", magnitude);
      prefix = "0b";
      break;
    case 0:
    case 'd':
    case 'i':
    case 'u':
    case 'n':
      digits = fmt::format("{}", magnitude);
      break;
    default:
      raise("Unknown format code '{}' for object of type 'int'", spec.type);
  }
  if (spec.grouping != 0) digits = group_digits(digits, spec.grouping, prefix.empty() ? 3 : 4);
  return pad(budget, spec, sign_of(spec, negative) + (spec.alternate ? prefix : ""), digits, '>');
}

std::string format_real(Budget& budget, double value, const FormatSpec& spec) {
  const bool negative = std::signbit(value) && !std::isnan(value);
  const double magnitude = std::fabs(value);
  const int precision = spec.precision < 0 ? 6 : spec.precision;
  std::string body;
  switch (spec.type) {
    case 0:
      body =
          spec.precision < 0 ? real_text(magnitude) : fmt::format("{:.{}g}", magnitude, precision);
      break;
    case 'f':
    case 'F':
      body = fmt::format("{:.{}f}", magnitude, precision);
      break;
    case '%':
      body = fmt::format("{:.{}f}%", magnitude * 100, precision);
      break;
    case 'e':
      body = fmt::format("{:.{}e}", magnitude, precision);
      break;
    case 'E':
      body = fmt::format("{:.{}E}", magnitude, precision);
      break;
    case 'g':
    case 'n':
      body = fmt::format("{:.{}g}", magnitude, precision);
      break;
    case 'G':
      body = fmt::format("{:.{}G}", magnitude, precision);
      break;
    default:
      raise("Unknown format code '{}' for object of type 'float'", spec.type);
  }
  if (spec.grouping != 0) {
    const size_t whole = std::min(body.find_first_not_of("0123456789"), body.size());
    body = group_digits(body.substr(0, whole), spec.grouping, 3) + body.substr(whole);
  }
  budget.allocate(body.size());
  return pad(budget, spec, sign_of(spec, negative), body, '>');
}

bool is_real_type(char type) {
  return type != 0 && std::string_view("eEfFgG%").find(type) != std::string_view::npos;
}

std::string format_value(Budget& budget, const Value& value, FormatSpec spec) {
  if (const auto integer = value.integer();
      integer && (value.boolean() == nullptr || spec.type != 0)) {
    if (is_real_type(spec.type)) return format_real(budget, static_cast<double>(*integer), spec);
    if (spec.type == 'c') {
      std::string text;
      if (*integer < 0 || *integer > 0x10FFFF || (*integer >= 0xD800 && *integer < 0xE000)) {
        raise("%c arg not in range(0x110000)");
      }
      append_code_point(text, static_cast<char32_t>(*integer));
      return pad(budget, spec, "", text, '<');
    }
    if (spec.precision >= 0) raise("Precision not allowed in integer format specifier");
    return format_integer(budget, *integer, spec);
  }
  if (const double* real = value.real()) return format_real(budget, *real, spec);
  if (value.text() == nullptr && value.boolean() == nullptr) {
    raise("unsupported format string passed to {}.__format__", value.type_name());
  }
  if (spec.type != 0 && spec.type != 's') {
    raise("Unknown format code '{}' for object of type 'str'", spec.type);
  }
  if (spec.align == '=' || spec.sign != '-') raise("a string takes neither '=' nor a sign");
  std::string text = to_string(budget, value);
  if (spec.precision >= 0) {
    text = text.substr(0, byte_of_character(text, static_cast<size_t>(spec.precision)));
  }
  if (spec.align == 0 && spec.zero) {
    spec.fill = '0';
    spec.align = '<';
  }
  return pad(budget, spec, "", text, '<');
}

}  // namespace lorax::jinja
