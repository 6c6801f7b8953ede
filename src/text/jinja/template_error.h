// Errors of rendering, as opposed to those of loading a template (plain Error).
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

#include "base/error.h"

namespace lorax {

// A template cannot render what it was given: Python's TypeError, an undefined value used, a limit
// passed.
class TemplateError : public Error {
 public:
  using Error::Error;
};

// The template itself refused, by raise_exception; what() is the message that it gave.
class TemplateRaised : public TemplateError {
 public:
  using TemplateError::TemplateError;
};

namespace jinja {

// Throws TemplateError with a formatted message.
template <typename... Args>
[[noreturn]] void raise(fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace jinja
}  // namespace lorax
