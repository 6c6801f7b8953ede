#pragma once

#include <string>
#include <string_view>

namespace lorax {

// Foreign UTF-8 as an error message can hold it: control characters as \x0a, cut after about 100
// bytes.
std::string printable(std::string_view text);

// A byte that would break a line or steer a terminal.
constexpr bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

}  // namespace lorax
