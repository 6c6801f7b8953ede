#include "text/jinja/string_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "text/jinja/attributes.h"
#include "text/jinja/operators.h"
#include "text/jinja/python_text.h"
#include "text/jinja/string_search.h"
#include "text/jinja/unicode.h"

namespace lorax::jinja {
namespace {

constexpr size_t kMaxWidth = 1 << 20;

// Reads a spec or a field from its front.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

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
      if (number > kMaxWidth) raise("a format is wider than {} characters", kMaxWidth);
    }
    return number;
  }

 private:
  std::string_view text_;
};

bool is_align(char c) { return c == '<' || c == '>' || c == '=' || c == '^'; }

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
  Reader reader(text);
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

std::string group_digits(const std::string& digits, char separator, size_t every) {
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % every == 0) out += separator;
    out += digits[i];
  }
  return out;
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

// One conversion of "%": flags, width, precision, type. Takes values from a tuple one by one.
class PercentFormatter {
 public:
  PercentFormatter(Budget& budget, const Value& values) : budget_(budget), values_(values) {
    const Sequence* sequence = values.sequence();
    is_tuple_ = sequence != nullptr && sequence->type == Sequence::Type::kTuple;
  }

  std::string format(std::string_view text) {
    std::string out;
    Reader reader(text);
    while (!reader.done()) {
      const std::string_view plain = reader.take_until("%");
      budget_.allocate(plain.size());
      out += plain;
      if (!reader.take_if('%')) break;
      out += convert(reader);
    }
    const bool all = is_tuple_
                         ? taken_ == values_.sequence()->items.size()
                         : taken_ > 0 || values_.dict() != nullptr || values_.sequence() != nullptr;
    if (!all) raise("not all arguments converted during string formatting");
    return out;
  }

 private:
  Value take() {
    if (is_tuple_) {
      const std::vector<Value>& items = values_.sequence()->items;
      if (taken_ >= items.size()) raise("not enough arguments for format string");
      return items[taken_++];
    }
    if (taken_++ > 0) raise("not enough arguments for format string");
    return values_;
  }

  std::string convert(Reader& reader) {
    std::optional<Value> named;
    if (reader.take_if('(')) {
      const std::string_view key = reader.take_until(")");
      if (!reader.take_if(')')) raise("incomplete format key");
      if (values_.dict() == nullptr) raise("format requires a mapping");
      const Value* found = values_.dict()->find(key);
      if (found == nullptr) raise("the format key '{}' is missing", key);
      named = *found;
    }
    FormatSpec spec;
    for (;;) {
      const char flag = reader.peek();
      if (flag == '-') spec.align = '<';
      if (flag == '+' || (flag == ' ' && spec.sign != '+')) spec.sign = flag;
      if (flag == '0') spec.zero = true;
      if (flag == '#') spec.alternate = true;
      if (flag == '\0' || std::string_view("-+ 0#").find(flag) == std::string_view::npos) break;
      reader.take();
    }
    spec.width = reader.take_if('*') ? star() : reader.take_number();
    if (reader.take_if('.')) {
      spec.precision = static_cast<int>(reader.take_if('*') ? star() : reader.take_number());
    }
    if (reader.done()) raise("incomplete format");
    const char type = reader.take();
    if (type == '%') return "%";
    return write(named ? *named : take(), type, spec);
  }

  size_t star() {
    const auto integer = take().integer();
    if (!integer) raise("* wants int");
    if (*integer < 0 || *integer > static_cast<Integer>(kMaxWidth)) {
      raise("a format is wider than {} characters", kMaxWidth);
    }
    return static_cast<size_t>(*integer);
  }

  std::string write(const Value& value, char type, FormatSpec spec) {
    switch (type) {
      case 's':
      case 'r':
      case 'a':
        return write_text(type == 's' ? to_string(budget_, value) : repr(budget_, value), spec);
      case 'c':
        if (value.text() == nullptr || count_characters(value.text()->bytes) != 1) {
          raise("%c requires int or char");
        }
        return write_text(value.text()->bytes, spec);
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o':
        spec.type = type;
        return write_integer(value, spec);
      default:
        break;
    }
    if (!is_real_type(type) || type == '%') raise("unsupported format character '{}'", type);
    const auto number = value.number();
    if (!number) raise("must be real number, not {}", value.type_name());
    spec.type = type;
    if (spec.align == '<') spec.zero = false;
    return format_real(budget_, *number, spec);
  }

  std::string write_text(std::string text, FormatSpec spec) {
    if (spec.precision >= 0) {
      text = text.substr(0, byte_of_character(text, static_cast<size_t>(spec.precision)));
    }
    spec.zero = false;
    return pad(budget_, spec, "", text, '>');
  }

  std::string write_integer(const Value& value, FormatSpec spec) {
    auto integer = value.integer();
    if (!integer && value.real() != nullptr &&
        (spec.type == 'd' || spec.type == 'i' || spec.type == 'u')) {
      if (!(std::fabs(*value.real()) < 1e37)) raise("cannot convert float to integer");
      integer = static_cast<Integer>(*value.real());
    }
    if (!integer)
      raise("%{} format: a real number is required, not {}", spec.type, value.type_name());
    std::string digits;
    if (spec.precision > 0) {
      FormatSpec plain;
      plain.type = spec.type;
      plain.zero = true;
      plain.width = static_cast<size_t>(spec.precision);
      digits = format_integer(budget_, *integer < 0 ? -*integer : *integer, plain);
      return pad(budget_, spec, sign_of(spec, *integer < 0), digits, '>');
    }
    if (spec.align == '<') spec.zero = false;
    return format_integer(budget_, *integer, spec);
  }

  Budget& budget_;
  const Value& values_;
  bool is_tuple_ = false;
  size_t taken_ = 0;
};

// The fields of str.format: {0.name[key]!r:spec}, where the spec may hold fields itself.
class BraceFormatter {
 public:
  BraceFormatter(Budget& budget, const Args& args) : budget_(budget), args_(args) {}

  std::string format(std::string_view text, int depth) {
    if (depth > 2) raise("Max string recursion exceeded");
    std::string out;
    Reader reader(text);
    while (!reader.done()) {
      const std::string_view plain = reader.take_until("{}");
      budget_.allocate(plain.size());
      out += plain;
      if (reader.done()) break;
      const char brace = reader.take();
      if (reader.take_if(brace)) {
        out += brace;
      } else if (brace == '}') {
        raise("Single '}}' encountered in format string");
      } else {
        out += field(reader, depth);
      }
    }
    return out;
  }

 private:
  // Up to the brace that closes the field.
  static std::string_view take_field(Reader& reader) {
    const std::string_view rest = reader.rest();
    int open = 1;
    size_t end = 0;
    for (; end < rest.size(); ++end) {
      if (rest[end] == '{') ++open;
      if (rest[end] == '}' && --open == 0) break;
    }
    if (end == rest.size()) raise("expected '}}' before end of string");
    reader = Reader(rest.substr(end + 1));
    return rest.substr(0, end);
  }

  std::string field(Reader& reader, int depth) {
    Reader parts(take_field(reader));
    const std::string_view name = parts.take_until("!:");
    char conversion = 0;
    if (parts.take_if('!')) conversion = parts.take();
    Value value = lookup(name);
    std::string spec;
    if (parts.take_if(':')) {
      spec = format(parts.rest(), depth + 1);
    } else if (!parts.done()) {
      raise("expected ':' after conversion specifier");
    }
    if (conversion == 'r' || conversion == 'a') {
      value = repr(budget_, value);
    } else if (conversion == 's') {
      value = to_string(budget_, value);
    } else if (conversion != 0) {
      raise("Unknown conversion specifier {}", conversion);
    }
    if (spec.empty()) return to_string(budget_, value);
    return format_value(budget_, value, parse_spec(spec));
  }

  Value first(std::string_view name) {
    const bool is_index = std::ranges::all_of(name, [](char c) { return c >= '0' && c <= '9'; });
    if (!is_index) {
      const auto found =
          std::ranges::find(args_.keyword, name, &std::pair<std::string, Value>::first);
      if (found == args_.keyword.end()) raise("format() lacks the argument '{}'", name);
      return found->second;
    }
    const bool automatic = name.empty();
    if (automatic ? manual_ : automatic_ > 0) {
      raise("cannot switch between automatic field numbering and manual field specification");
    }
    manual_ = !automatic;
    const size_t index = automatic ? automatic_++ : Reader(name).take_number();
    if (index >= args_.positional.size()) {
      raise("Replacement index {} out of range for positional args tuple", index);
    }
    return args_.positional[index];
  }

  Value lookup(std::string_view name) {
    Reader reader(name);
    Value value = first(reader.take_until(".["));
    while (!reader.done()) {
      if (reader.take_if('.')) {
        value = get_attribute(budget_, value, reader.take_until(".["));
        continue;
      }
      reader.take();
      const std::string_view key = reader.take_until("]");
      if (!reader.take_if(']')) raise("Missing ']' in format string");
      const bool is_index =
          !key.empty() && std::ranges::all_of(key, [](char c) { return c >= '0' && c <= '9'; });
      value =
          get_item(budget_, value,
                   is_index ? Value(static_cast<Integer>(Reader(key).take_number())) : Value(key));
    }
    return value;
  }

  Budget& budget_;
  const Args& args_;
  size_t automatic_ = 0;
  bool manual_ = false;
};

}  // namespace

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
    spec.fill = "0";
    spec.align = '<';
  }
  return pad(budget, spec, "", text, '<');
}

Value format_percent(Budget& budget, const Text& text, const Value& values) {
  return {PercentFormatter(budget, values).format(text.bytes), text.safe};
}

std::string format_braces(Budget& budget, std::string_view text, const Args& args) {
  return BraceFormatter(budget, args).format(text, 1);
}

}  // namespace lorax::jinja
