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

}  // namespace lorax::jinja
