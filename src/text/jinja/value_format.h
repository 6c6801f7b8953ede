// How one value is written into a text: what stands behind the colon of "{:>8.2f}".
#pragma once

#include <string>
#include <string_view>

#include "text/jinja/value.h"

namespace lorax::jinja {

// [[fill]align][sign][#][0][width][,][.precision][type]
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

// Throws TemplateError for a text that is no spec.
FormatSpec parse_spec(std::string_view text);

// Whether the type is one of real numbers: f, e, %, ...
bool is_real_type(char type);

// The value's text in that form. Throws TemplateError for a type that the value cannot take.
std::string format_value(Budget& budget, const Value& value, FormatSpec spec);

// The same of numbers. Throw TemplateError for a type that they cannot take.
std::string format_integer(Budget& budget, Integer value, const FormatSpec& spec);
std::string format_real(Budget& budget, double value, const FormatSpec& spec);

// What stands in front of a number.
std::string sign_of(const FormatSpec& spec, bool negative);
// sign + body, filled up to the spec's width.
std::string pad(Budget& budget, const FormatSpec& spec, std::string_view sign,
                std::string_view body, char default_align);

}  // namespace lorax::jinja
