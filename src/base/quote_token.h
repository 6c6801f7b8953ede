#pragma once

#include <string>
#include <string_view>

namespace lorax {

// A token of a file, for an error message: in quotation marks, on one line, cut if it is long.
std::string quote_token(std::string_view token);

}  // namespace lorax
