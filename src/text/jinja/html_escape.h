// markupsafe.escape, for strings that are added to one that is marked safe.
#pragma once

#include <string>
#include <string_view>

#include "text/jinja/budget.h"

namespace lorax::jinja {

std::string escape_html(Budget& budget, std::string_view text);

}  // namespace lorax::jinja
