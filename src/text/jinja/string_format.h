// Python's two ways to format: "%s" % value and "{}".format(value).
#pragma once

#include <string>
#include <string_view>

#include "text/jinja/value.h"

namespace lorax::jinja {

// text % values: `values` is a tuple, a dict or one value.
Value format_percent(Budget& budget, const Text& text, const Value& values);

// text.format(...), within what the sandbox allows.
std::string format_braces(Budget& budget, std::string_view text, const Args& args);

// How a value is to be written: [[fill]align][sign][#][0][width][,][.precision][type].
struct FormatSpec {
  std::string fill = " ";
  char align = 0;  // one of <>=^, or 0
  char sign = '-';
  bool alternate = false;
  bool zero = false;
  char grouping = 0;  // ',' or '_'
  size_t width = 0;
  int precision = -1;
  char type = 0;
};

// The value's text in that form. Throws TemplateError for a type that the value cannot take.
std::string format_value(Budget& budget, const Value& value, FormatSpec spec);

}  // namespace lorax::jinja
