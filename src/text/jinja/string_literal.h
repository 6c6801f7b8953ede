#pragma once

#include <string>
#include <string_view>

namespace lorax::jinja {

// The text that a string literal stands for, given what is between its quotes, which is valid
// UTF-8. Throws TemplateError for an escape that is cut short or no character.
std::string unescape_string(std::string_view literal);

}  // namespace lorax::jinja
