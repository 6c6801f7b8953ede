// Template text to statements.
#pragma once

#include <string>
#include <string_view>

#include "text/jinja/ast.h"
#include "text/jinja/names.h"

namespace lorax::jinja {

struct Template {
  ScopedBody body;
  TemplateNames names;
};

// Parses text that is valid UTF-8. Throws Error that begins with `origin`, names the line and the
// construct, for a text that is no template, and for tags, filters, tests, functions and methods
// that the interpreter does not have.
Template parse_template(std::string_view source, std::string_view origin);

}  // namespace lorax::jinja
