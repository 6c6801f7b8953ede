#pragma once

#include <string>
#include <string_view>

namespace lorax {

// The text with `content` for each `pattern`, which must not be empty, found from left to right.
std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content);

}  // namespace lorax
