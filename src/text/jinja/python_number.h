// Python's int() and float() of values, and round().
#pragma once

#include <optional>
#include <string_view>

#include "text/jinja/value.h"

namespace lorax::jinja {

// int(text, base), base 0 or 2 to 36. Nothing where Python raises ValueError; throws TemplateError
// for a number of more than 127 bits.
std::optional<Integer> parse_integer(std::string_view text, int base);
// float(text).
std::optional<double> parse_real(std::string_view text);
// int(value) of a float; nothing if it is not finite. Throws as above.
std::optional<Integer> truncate_real(double value);
// round(value, digits).
double round_real(double value, int digits);

}  // namespace lorax::jinja
