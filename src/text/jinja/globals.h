// The functions that every template has: Jinja's range, dict and namespace, transformers'
// raise_exception and strftime_now.
#pragma once

#include <ctime>
#include <optional>
#include <string_view>

#include "text/jinja/value.h"

namespace lorax::jinja {

bool is_global_function(std::string_view name);

// The function, or nothing. strftime_now tells the local time of `now`.
std::optional<Value> global_function(Budget& budget, std::string_view name, std::time_t now);

}  // namespace lorax::jinja
