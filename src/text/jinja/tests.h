// The tests of Jinja, `value is name(args)`.
#pragma once

#include <string_view>

#include "text/jinja/value.h"

namespace lorax::jinja {

using Test = bool (*)(Budget& budget, const Value& value, Args args);

// Null if there is none of the name.
Test find_test(std::string_view name);

}  // namespace lorax::jinja
