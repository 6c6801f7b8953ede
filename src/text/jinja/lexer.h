// Template text to tokens, with Jinja's rules for white space as transformers sets them:
// trim_blocks and lstrip_blocks on, the last line's end dropped.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/value.h"

namespace lorax::jinja {

struct Token {
  enum class Type : uint8_t {
    kData,           // text between tags
    kBlockBegin,     // {%
    kBlockEnd,       // %}
    kVariableBegin,  // {{
    kVariableEnd,    // }}
    kName,
    kString,
    kNumber,
    kOperator,
    kEnd,
  };
  Type type = Type::kEnd;
  int line = 1;
  std::string text;  // of a string, its value
  Value number;      // of a number
};

// The last token is kEnd. Throws Error that begins with `origin` and names the line.
std::vector<Token> tokenize(std::string_view source, std::string_view origin);

}  // namespace lorax::jinja
