// Text inside HTML, of elements and of attributes.
#pragma once

#include <string>
#include <string_view>

namespace lorax {

// As markupsafe.escape does it.
std::string escape_html(std::string_view text);

}  // namespace lorax
