#include "text/jinja/string_literal.h"

#include <fmt/format.h>

#include "text/jinja/template_error.h"
#include "text/jinja/unicode.h"

namespace lorax::jinja {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

void append_checked(std::string& out, char32_t code) {
  if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
    raise("the escape of {:#x} in a string is no character", static_cast<uint32_t>(code));
  }
  append_code_point(out, code);
}

// Reads `count` digits behind \x, \u or \U from the front of `rest`.
char32_t take_hex(std::string_view& rest, size_t count) {
  char32_t code = 0;
  for (size_t i = 0; i < count; ++i) {
    const int digit = rest.empty() ? -1 : hex_digit(rest[0]);
    if (digit < 0) raise("an escape in a string lacks digits");
    code = code * 16 + static_cast<char32_t>(digit);
    rest.remove_prefix(1);
  }
  return code;
}

char32_t take_octal(std::string_view& rest) {
  char32_t code = 0;
  for (int i = 0; i < 3 && !rest.empty() && rest[0] >= '0' && rest[0] <= '7'; ++i) {
    code = code * 8 + static_cast<char32_t>(rest[0] - '0');
    rest.remove_prefix(1);
  }
  return code;
}

// What stands behind a backslash, taken from the front of `rest`.
void append_escape(std::string& out, std::string_view& rest) {
  constexpr std::string_view kLetters = "abfnrtv\\'\"";
  constexpr std::string_view kMeanings = "\a\b\f\n\r\t\v\\'\"";
  const char c = rest[0];
  if (const size_t letter = kLetters.find(c); letter != std::string_view::npos) {
    out += kMeanings[letter];
    rest.remove_prefix(1);
  } else if (c == '\n') {
    rest.remove_prefix(1);
  } else if (c >= '0' && c <= '7') {
    append_checked(out, take_octal(rest));
  } else if (c == 'x' || c == 'u' || c == 'U') {
    rest.remove_prefix(1);
    append_checked(out, take_hex(rest, c == 'x' ? 2 : c == 'u' ? 4 : 8));
  } else if (c == 'N') {
    raise("the escape \\N in a string is not supported; write the character itself");
  } else if (static_cast<unsigned char>(c) >= 0x80) {
    // Jinja escapes what is not ASCII before it reads escapes, so the backslash before it becomes
    // one that stands for itself.
    const auto code = static_cast<uint32_t>(code_point_at(rest, 0));
    out += code < 0x100     ? fmt::format("\\x{:02x}", code)
           : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                            : fmt::format("\\U{:08x}", code);
    rest.remove_prefix(character_at(rest, 0).size());
  } else {
    out += '\\';
  }
}

}  // namespace

std::string unescape_string(std::string_view literal) {
  std::string out;
  while (!literal.empty()) {
    const char c = literal[0];
    if (c != '\\') {
      out += c;
      literal.remove_prefix(1);
      continue;
    }
    literal.remove_prefix(1);
    append_escape(out, literal);
  }
  return out;
}

}  // namespace lorax::jinja
