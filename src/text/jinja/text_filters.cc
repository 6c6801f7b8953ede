#include <fmt/format.h>

#include <algorithm>

#include "base/html_escape.h"
#include "text/jinja/arguments.h"
#include "text/jinja/attributes.h"
#include "text/jinja/filters.h"
#include "text/jinja/operators.h"
#include "text/jinja/python_text.h"
#include "text/jinja/string_format.h"
#include "text/jinja/string_search.h"
#include "text/jinja/unicode.h"

namespace lorax::jinja {
namespace {

bool is_safe(const Value& value) { return value.text() != nullptr && value.text()->safe; }

template <std::string (*kMap)(std::string_view)>
Value map_text(Budget& budget, const Value& value, Args args) {
  const Arguments none("filter", std::move(args), {});
  return {kMap(to_string(budget, value)), is_safe(value)};
}

Value string(Budget& budget, const Value& value, Args args) {
  const Arguments none("string", std::move(args), {});
  return value.text() != nullptr ? value : Value(to_string(budget, value));
}

Value safe(Budget& budget, const Value& value, Args args) {
  const Arguments none("safe", std::move(args), {});
  return {to_string(budget, value), true};
}

Value escaped(Budget& budget, const Value& value) {
  const std::string text = to_string(budget, value);
  budget.allocate(text.size());
  return {escape_html(text), true};
}

Value escape(Budget& budget, const Value& value, Args args) {
  const Arguments none("escape", std::move(args), {});
  return is_safe(value) ? value : escaped(budget, value);
}

Value forceescape(Budget& budget, const Value& value, Args args) {
  const Arguments none("forceescape", std::move(args), {});
  return escaped(budget, value);
}

Value trim(Budget& budget, const Value& value, Args args) {
  const Arguments given("trim", std::move(args), {"chars"});
  const bool has_set = given.has(0) && !given.value(0).is_none();
  const std::string_view set = has_set ? given.text(0) : std::string_view();
  const std::string text = to_string(budget, value);
  const std::string_view* characters = has_set ? &set : nullptr;
  return {std::string(strip_right(strip_left(text, characters), characters)), is_safe(value)};
}

Value title(Budget& budget, const Value& value, Args args) {
  const Arguments none("title", std::move(args), {});
  // A word begins at the start and behind a run of these; the run's first is in upper case, too,
  // which changes nothing.
  const auto splits = [](std::string_view character) {
    return std::string_view("-({[<").find(character) != std::string_view::npos ||
           is_space(code_point_at(character, 0));
  };
  const std::string text = to_string(budget, value);
  std::string out;
  std::string rest;  // of the word
  bool begins = true;
  for (const std::string_view character : characters(text)) {
    const bool split = splits(character);
    if (begins || split) {
      out += to_lower(rest);
      rest.clear();
      out += split ? std::string(character) : to_upper(character);
    } else {
      rest += character;
    }
    begins = split;
  }
  return out += to_lower(rest);
}

Value replace(Budget& budget, const Value& value, Args args) {
  const Arguments given("replace", std::move(args), {"old", "new", "count"}, 2);
  const bool all = !given.has(2) || given.value(2).is_none();
  return replace_occurrences(budget, to_string(budget, value), to_string(budget, given.value(0)),
                             to_string(budget, given.value(1)), all ? -1 : given.integer(2));
}

Value indent(Budget& budget, const Value& value, Args args) {
  const Arguments given("indent", std::move(args), {"width", "first", "blank"});
  std::string indention;
  if (given.has(0) && given.value(0).text() != nullptr) {
    indention = given.text(0);
  } else {
    indention = pad_text(budget, "", given.integer(0, 4), " ", -1);
  }
  if (value.is_undefined()) raise("{}", value.undefined_message());
  if (value.text() == nullptr) raise("indent takes a string, not {}", value.type_name());
  const std::string text = value.text()->bytes + "\n";
  const bool blank = given.truth(2, false);
  const std::vector<std::string_view> lines = split_lines(text);
  budget.allocate(lines.size(), indention.size() + 1);
  budget.allocate(text.size());
  std::string out = given.truth(1, false) ? indention : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += "\n";
    if (i > 0 && (blank || !lines[i].empty())) out += indention;
    out += lines[i];
  }
  return {std::move(out), is_safe(value)};
}

Value truncate(Budget& budget, const Value& value, Args args) {
  const Arguments given("truncate", std::move(args), {"length", "killwords", "end", "leeway"});
  const Integer length = given.integer(0, 255);
  const std::string_view end = given.text(2, "...");
  const Integer leeway = given.has(3) && !given.value(3).is_none() ? given.integer(3) : Integer{5};
  const auto end_length = static_cast<Integer>(count_characters(end));
  if (length < end_length) raise("expected length >= {}", end_length);
  if (leeway < 0) raise("expected leeway >= 0");
  if (static_cast<Integer>(length_or_raise(value)) <= length + leeway) return value;
  if (value.text() == nullptr) raise("truncate takes a string, not {}", value.type_name());
  const std::string& text = value.text()->bytes;
  budget.allocate(text.size());
  std::string_view cut = std::string_view(text).substr(
      0, byte_of_character(text, static_cast<size_t>(length - end_length)));
  if (!given.truth(1, false)) cut = split_on(cut, " ", 1, true).front();
  return std::string(cut) + std::string(end);
}

Value center(Budget& budget, const Value& value, Args args) {
  const Arguments given("center", std::move(args), {"width"});
  return {pad_text(budget, to_string(budget, value), given.integer(0, 80), " ", 0), is_safe(value)};
}

Value wordcount(Budget& budget, const Value& value, Args args) {
  const Arguments none("wordcount", std::move(args), {});
  Integer count = 0;
  bool in_word = false;
  const std::string text = to_string(budget, value);
  for (const std::string_view character : characters(text)) {
    const char32_t code = code_point_at(character, 0);
    const bool word = code == '_' || is_alnum(code);
    if (word && !in_word) ++count;
    in_word = word;
  }
  return count;
}

Value format(Budget& budget, const Value& value, Args args) {
  if (!args.positional.empty() && !args.keyword.empty()) {
    raise("can't handle positional and keyword arguments at the same time");
  }
  Value values = Value::tuple(std::move(args.positional));
  if (!args.keyword.empty()) {
    auto dict = std::make_shared<Dict>();
    for (auto& [name, argument] : args.keyword) dict->set(budget, Value(name), std::move(argument));
    values = Value(std::shared_ptr<const Dict>(std::move(dict)));
  }
  return format_percent(budget, Text{to_string(budget, value), is_safe(value)}, values);
}

Value join(Budget& budget, const Value& value, Args args) {
  const Arguments given("join", std::move(args), {"d", "attribute"});
  const AttributePath path(given.value(1, None()));
  const std::string separator = to_string(budget, given.value(0, ""));
  std::string out;
  bool first = true;
  Cursor cursor(budget, value);
  while (auto item = cursor.next()) {
    if (!first) out += separator;
    first = false;
    budget.allocate(separator.size());
    out += to_string(budget, path.follow(budget, std::move(*item)));
  }
  return out;
}

Value tojson(Budget& budget, const Value& value, Args args) {
  const Arguments given("tojson", std::move(args),
                        {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = given.truth(0, false);
  style.sort_keys = given.truth(3, false);
  if (const Value indent = given.value(1, None()); indent.text() != nullptr) {
    style.indent = indent.text()->bytes;
  } else if (!indent.is_none()) {
    style.indent = pad_text(budget, "", given.integer(1), " ", -1);
  }
  // With an indent json.dumps puts no blank behind a comma.
  if (style.indent) style.item_separator = std::string(",");
  if (const Value separators = given.value(2, None()); !separators.is_none()) {
    const std::vector<Value> pair = to_vector(budget, separators);
    if (pair.size() != 2 || pair[0].text() == nullptr || pair[1].text() == nullptr) {
      raise("tojson(): 'separators' must be two strings");
    }
    style.item_separator = pair[0].text()->bytes;
    style.key_separator = pair[1].text()->bytes;
  }
  return to_json(budget, value, style);
}

}  // namespace

const FilterTable& text_filters() {
  static const FilterTable kFilters = {
      {"capitalize", map_text<to_capitalized>},
      {"center", center},
      {"e", escape},
      {"escape", escape},
      {"forceescape", forceescape},
      {"format", format},
      {"indent", indent},
      {"join", join},
      {"lower", map_text<to_lower>},
      {"replace", replace},
      {"safe", safe},
      {"string", string},
      {"title", title},
      {"tojson", tojson},
      {"trim", trim},
      {"truncate", truncate},
      {"upper", map_text<to_upper>},
      {"wordcount", wordcount},
  };
  return kFilters;
}

}  // namespace lorax::jinja
