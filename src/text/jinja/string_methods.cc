// The methods of str.
#include <algorithm>
#include <map>

#include "text/jinja/arguments.h"
#include "text/jinja/attributes.h"
#include "text/jinja/operators.h"
#include "text/jinja/python_text.h"
#include "text/jinja/string_format.h"
#include "text/jinja/string_search.h"
#include "text/jinja/unicode.h"

namespace lorax::jinja {
namespace {

struct Call {
  Budget& budget;
  const Value& object;
  const std::string& text;  // of the object
  std::string_view name;
  Args args;

  // Every method but split, rsplit, splitlines, expandtabs and format takes no keywords in Python.
  Arguments positional(std::initializer_list<std::string_view> parameters, size_t required = 0) {
    if (!args.keyword.empty()) raise("str.{}() takes no keyword arguments", name);
    return Arguments(name, std::move(args), parameters, required);
  }
  Value made(std::string bytes) const {
    budget.allocate(bytes.size());
    return {std::move(bytes), object.text()->safe};
  }
};

using Method = Value (*)(Call&);

template <std::string (*kMap)(std::string_view)>
Value map_text(Call& call) {
  call.positional({});
  return call.made(kMap(call.text));
}

template <bool kLeft, bool kRight>
Value strip(Call& call) {
  const Arguments args = call.positional({"chars"});
  const bool has_set = args.has(0) && !args.value(0).is_none();
  const std::string_view set = has_set ? args.text(0) : std::string_view();
  std::string_view out = call.text;
  if (kLeft) out = strip_left(out, has_set ? &set : nullptr);
  if (kRight) out = strip_right(out, has_set ? &set : nullptr);
  return call.made(std::string(out));
}

template <bool kFromRight>
Value split(Call& call) {
  const Arguments args(call.name, std::move(call.args), {"sep", "maxsplit"});
  const Integer limit = args.integer(1, -1);
  const auto count = limit < 0 ? SIZE_MAX : static_cast<size_t>(std::min<Integer>(limit, SIZE_MAX));
  std::vector<std::string_view> parts;
  if (!args.has(0) || args.value(0).is_none()) {
    parts = split_on_space(call.text, count, kFromRight);
  } else if (args.text(0).empty()) {
    raise("empty separator");
  } else {
    parts = split_on(call.text, args.text(0), count, kFromRight);
  }
  call.budget.allocate(parts.size(), sizeof(Value) + sizeof(Text));
  std::vector<Value> items(parts.begin(), parts.end());
  return Value::list(std::move(items));
}

Value splitlines(Call& call) {
  const Arguments args(call.name, std::move(call.args), {"keepends"});
  const auto lines = split_lines(call.text, args.truth(0, false));
  call.budget.allocate(lines.size(), sizeof(Value) + sizeof(Text));
  return Value::list(std::vector<Value>(lines.begin(), lines.end()));
}

// startswith and endswith: one text or a tuple of them, in a part of the string.
template <bool kAtEnd>
Value has_affix(Call& call) {
  const Arguments args = call.positional({"affix", "start", "end"}, 1);
  const Range range = character_range(call.text, args.value(1, None()), args.value(2, None()));
  const auto matches = [&](const Value& affix) {
    if (affix.text() == nullptr) {
      raise("{} first arg must be str or a tuple of str, not {}", call.name, affix.type_name());
    }
    if (!range.valid) return false;
    const std::string& bytes = affix.text()->bytes;
    return kAtEnd ? range.text.ends_with(bytes) : range.text.starts_with(bytes);
  };
  const Value first = args.value(0);
  const Sequence* tuple = first.sequence();
  if (tuple == nullptr || tuple->type != Sequence::Type::kTuple) return matches(first);
  return std::ranges::any_of(tuple->items, matches);
}

// find, rfind, index, rindex: in characters.
template <bool kLast, bool kRaises>
Value find(Call& call) {
  const Arguments args = call.positional({"sub", "start", "end"}, 1);
  const std::string_view wanted = args.text(0);
  const Range range = character_range(call.text, args.value(1, None()), args.value(2, None()));
  const size_t at = !range.valid ? std::string_view::npos
                    : kLast      ? find_last_text(range.text, wanted)
                                 : find_text(range.text, wanted);
  if (at == std::string_view::npos) {
    if (kRaises) raise("substring not found");
    return Integer{-1};
  }
  return static_cast<Integer>(range.begin + count_characters(range.text.substr(0, at)));
}

Value count(Call& call) {
  const Arguments args = call.positional({"sub", "start", "end"}, 1);
  const Range range = character_range(call.text, args.value(1, None()), args.value(2, None()));
  if (!range.valid) return Integer{0};
  return static_cast<Integer>(count_occurrences(range.text, args.text(0)));
}

Value replace(Call& call) {
  const Arguments args = call.positional({"old", "new", "count"}, 2);
  return call.made(
      replace_occurrences(call.budget, call.text, args.text(0), args.text(1), args.integer(2, -1)));
}

Value join(Call& call) {
  const Arguments args = call.positional({"iterable"}, 1);
  std::string out;
  size_t count = 0;
  Cursor cursor(call.budget, args.value(0));
  while (const auto item = cursor.next()) {
    if (item->text() == nullptr) {
      raise("sequence item {}: expected str instance, {} found", count, item->type_name());
    }
    if (count++ > 0) out += call.text;
    out += item->text()->bytes;
    call.budget.allocate(call.text.size() + item->text()->bytes.size());
  }
  return {std::move(out), call.object.text()->safe};
}

template <bool kPrefix>
Value remove_affix(Call& call) {
  const Arguments args = call.positional({"affix"}, 1);
  const std::string_view affix = args.text(0);
  std::string_view out = call.text;
  if (kPrefix && out.starts_with(affix)) out.remove_prefix(affix.size());
  if (!kPrefix && out.ends_with(affix)) out.remove_suffix(affix.size());
  return call.made(std::string(out));
}

template <bool kLast>
Value partition(Call& call) {
  const Arguments args = call.positional({"sep"}, 1);
  const std::string_view separator = args.text(0);
  if (separator.empty()) raise("empty separator");
  const std::string_view text = call.text;
  const size_t at = kLast ? find_last_text(text, separator) : find_text(text, separator);
  if (at == std::string_view::npos) {
    return kLast ? Value::tuple({"", "", call.object}) : Value::tuple({call.object, "", ""});
  }
  return Value::tuple({call.made(std::string(text.substr(0, at))), Value(separator),
                       call.made(std::string(text.substr(at + separator.size())))});
}

template <int kSide>  // -1: the text stands left, 0: in the middle, 1: right
Value justify(Call& call) {
  const Arguments args = call.positional({"width", "fillchar"}, 1);
  const std::string_view fill = args.text(1, " ");
  if (count_characters(fill) != 1) raise("the fill character must be exactly one character long");
  return call.made(pad_text(call.budget, call.text, args.integer(0), fill, kSide));
}

Value zfill(Call& call) {
  const Arguments args = call.positional({"width"}, 1);
  const bool sign = call.text.starts_with('-') || call.text.starts_with('+');
  const std::string padded = pad_text(call.budget, std::string_view(call.text).substr(sign ? 1 : 0),
                                      args.integer(0) - (sign ? 1 : 0), "0", 1);
  return call.made((sign ? call.text.substr(0, 1) : "") + padded);
}

Value expandtabs(Call& call) {
  const Arguments args(call.name, std::move(call.args), {"tabsize"});
  const Integer size = args.integer(0, 8);
  std::string out;
  Integer column = 0;
  for (const std::string_view character : characters(call.text)) {
    if (character == "\t") {
      const Integer spaces = size > 0 ? size - column % size : 0;
      call.budget.allocate(static_cast<size_t>(std::min<Integer>(spaces, SIZE_MAX)));
      out.append(static_cast<size_t>(spaces), ' ');
      column += spaces;
    } else {
      out += character;
      column = character == "\n" || character == "\r" ? 0 : column + 1;
    }
  }
  return call.made(std::move(out));
}

template <bool (*kTest)(char32_t)>
Value all_are(Call& call) {
  call.positional({});
  const auto all = characters(call.text);
  return !all.empty() &&
         std::ranges::all_of(all, [](std::string_view c) { return kTest(code_point_at(c, 0)); });
}

bool is_ascii(char32_t code) { return code < 0x80; }

Value isascii(Call& call) {
  call.positional({});
  const auto all = characters(call.text);
  return std::ranges::all_of(all, [](std::string_view c) { return is_ascii(code_point_at(c, 0)); });
}

Value istitle(Call& call) {
  call.positional({});
  return is_title_text(call.text);
}

template <bool (*kTest)(std::string_view)>
Value is_case(Call& call) {
  call.positional({});
  return kTest(call.text);
}

Value format(Call& call) { return call.made(format_braces(call.budget, call.text, call.args)); }

const std::map<std::string_view, Method>& methods() {
  static const std::map<std::string_view, Method> kMethods = {
      {"capitalize", map_text<to_capitalized>},
      {"casefold", map_text<fold_case>},
      {"center", justify<0>},
      {"count", count},
      {"endswith", has_affix<true>},
      {"expandtabs", expandtabs},
      {"find", find<false, false>},
      {"format", format},
      {"index", find<false, true>},
      {"isalnum", all_are<is_alnum>},
      {"isalpha", all_are<is_alpha>},
      {"isascii", isascii},
      {"isdecimal", all_are<is_decimal>},
      {"isdigit", all_are<is_digit>},
      {"islower", is_case<is_lower_text>},
      {"isspace", all_are<is_space>},
      {"istitle", istitle},
      {"isupper", is_case<is_upper_text>},
      {"join", join},
      {"ljust", justify<-1>},
      {"lower", map_text<to_lower>},
      {"lstrip", strip<true, false>},
      {"partition", partition<false>},
      {"removeprefix", remove_affix<true>},
      {"removesuffix", remove_affix<false>},
      {"replace", replace},
      {"rfind", find<true, false>},
      {"rindex", find<true, true>},
      {"rjust", justify<1>},
      {"rpartition", partition<true>},
      {"rsplit", split<true>},
      {"rstrip", strip<false, true>},
      {"split", split<false>},
      {"splitlines", splitlines},
      {"startswith", has_affix<false>},
      {"strip", strip<true, true>},
      {"swapcase", map_text<swap_case>},
      {"title", map_text<to_title>},
      {"upper", map_text<to_upper>},
      {"zfill", zfill},
  };
  return kMethods;
}

}  // namespace

bool is_string_method(std::string_view name) { return methods().contains(name); }

std::optional<Value> string_method(Budget& budget, const Value& object, std::string_view name) {
  const auto found = methods().find(name);
  if (found == methods().end()) return std::nullopt;
  return Value::function(std::string(name),
                         [&budget, object, name = found->first, method = found->second](Args args) {
                           Call call{budget, object, object.text()->bytes, name, std::move(args)};
                           budget.step(call.text.size() / 16);
                           return method(call);
                         });
}

}  // namespace lorax::jinja
