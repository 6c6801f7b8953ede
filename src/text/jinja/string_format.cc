#include "text/jinja/string_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "text/jinja/attributes.h"
#include "text/jinja/format_reader.h"
#include "text/jinja/operators.h"
#include "text/jinja/python_text.h"
#include "text/jinja/string_search.h"
#include "text/jinja/unicode.h"
#include "text/jinja/value_format.h"

namespace lorax::jinja {
namespace {

// One conversion of "%": flags, width, precision, type. Takes values from a tuple one by one.
class PercentFormatter {
 public:
  PercentFormatter(Budget& budget, const Value& values) : budget_(budget), values_(values) {
    const Sequence* sequence = values.sequence();
    is_tuple_ = sequence != nullptr && sequence->type == Sequence::Type::kTuple;
  }

  std::string format(std::string_view text) {
    std::string out;
    FormatReader reader(text);
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

  std::string convert(FormatReader& reader) {
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
    if (*integer < 0 || *integer > static_cast<Integer>(kMaxFormatWidth)) {
      raise("a format is wider than {} characters", kMaxFormatWidth);
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
    FormatReader reader(text);
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
  static std::string_view take_field(FormatReader& reader) {
    const std::string_view rest = reader.rest();
    int open = 1;
    size_t end = 0;
    for (; end < rest.size(); ++end) {
      if (rest[end] == '{') ++open;
      if (rest[end] == '}' && --open == 0) break;
    }
    if (end == rest.size()) raise("expected '}}' before end of string");
    reader = FormatReader(rest.substr(end + 1));
    return rest.substr(0, end);
  }

  std::string field(FormatReader& reader, int depth) {
    FormatReader parts(take_field(reader));
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
    const size_t index = automatic ? automatic_++ : FormatReader(name).take_number();
    if (index >= args_.positional.size()) {
      raise("Replacement index {} out of range for positional args tuple", index);
    }
    return args_.positional[index];
  }

  Value lookup(std::string_view name) {
    FormatReader reader(name);
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
      value = get_item(
          budget_, value,
          is_index ? Value(static_cast<Integer>(FormatReader(key).take_number())) : Value(key));
    }
    return value;
  }

  Budget& budget_;
  const Args& args_;
  size_t automatic_ = 0;
  bool manual_ = false;
};

}  // namespace

Value format_percent(Budget& budget, const Text& text, const Value& values) {
  return {PercentFormatter(budget, values).format(text.bytes), text.safe};
}

std::string format_braces(Budget& budget, std::string_view text, const Args& args) {
  return BraceFormatter(budget, args).format(text, 1);
}

}  // namespace lorax::jinja
