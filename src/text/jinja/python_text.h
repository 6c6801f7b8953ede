// Python's str(), repr() and json.dumps() of values.
#pragma once

#include <string>
#include <string_view>

#include "text/jinja/value.h"

namespace lorax::jinja {

// Throws TemplateError for what prints an address in Python: functions and generators.
std::string to_string(Budget& budget, const Value& value);
std::string repr(Budget& budget, const Value& value);

std::string integer_text(Integer value);
// The shortest digits that read back as the same number, as repr() writes them.
std::string real_text(double value);

struct JsonStyle {
  bool ensure_ascii = false;
  std::optional<std::string> indent;  // of one level
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};

// Throws TemplateError for what JSON does not know, such as an undefined value.
std::string to_json(Budget& budget, const Value& value, const JsonStyle& style);

}  // namespace lorax::jinja
