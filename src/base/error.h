// Errors that a user can cause and mend: bad files, flags, prompts. Everything thrown on purpose in
// this program is an Error; its text is one line that names the file, tensor or flag and says what
// to do. `lorax` prints it and exits with 1.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace lorax {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws Error with a formatted message.
template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace lorax
