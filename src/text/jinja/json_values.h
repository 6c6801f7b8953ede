// JSON as the values that templates see.
#pragma once

#include <boost/json/value.hpp>

#include "text/jinja/value.h"

namespace lorax::jinja {

// Bytes of strings that are not UTF-8 become U+FFFD. Throws TemplateError for a value that nests
// deeper than kMaxNesting.
Value from_json(Budget& budget, const boost::json::value& value);

}  // namespace lorax::jinja
