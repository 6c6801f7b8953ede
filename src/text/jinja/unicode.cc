#include "text/jinja/unicode.h"

#include <unicode/ucasemap.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <memory>
#include <new>

#include "base/check.h"
#include "base/utf8.h"

namespace lorax::jinja {
namespace {

UChar32 to_icu(char32_t code) { return static_cast<UChar32>(code); }

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

struct CloseCaseMap {
  void operator()(UCaseMap* map) const { ucasemap_close(map); }
};

// All that can be wrong with these calls is that there is no memory.
void check(UErrorCode error) {
  if (error == U_MEMORY_ALLOCATION_ERROR) throw std::bad_alloc();
  LORAX_CHECK(U_SUCCESS(error), "{}", u_errorName(error));
}

// The root locale's case map, which is immutable.
const UCaseMap* case_map() {
  static const std::unique_ptr<UCaseMap, CloseCaseMap> kMap = [] {
    UErrorCode error = U_ZERO_ERROR;
    UCaseMap* map = ucasemap_open("", 0, &error);
    check(error);
    return std::unique_ptr<UCaseMap, CloseCaseMap>(map);
  }();
  return kMap.get();
}

template <typename Map>
std::string map_case(std::string_view text, Map map) {
  std::string out(text.size() + 16, '\0');
  for (;;) {
    UErrorCode error = U_ZERO_ERROR;
    const int32_t length = map(case_map(), out.data(), static_cast<int32_t>(out.size()),
                               text.data(), static_cast<int32_t>(text.size()), &error);
    if (error != U_BUFFER_OVERFLOW_ERROR) {
      check(error);
      out.resize(static_cast<size_t>(length));
      return out;
    }
    out.resize(static_cast<size_t>(length));
  }
}

// Of one character: ICU's title case of a string would look for words.
std::string title_of(std::string_view character) {
  const char32_t code = code_point_at(character, 0);
  const std::string upper = to_upper(character);
  if (count_characters(upper) > 1) {
    // Such as the German sharp s: title case is the upper case with all but its first in lower.
    const std::string_view first = character_at(upper, 0);
    return std::string(first) + to_lower(std::string_view(upper).substr(first.size()));
  }
  std::string out;
  append_code_point(out, static_cast<char32_t>(u_totitle(to_icu(code))));
  return out;
}

bool is_cased(char32_t code) { return is_lower(code) || is_upper(code) || is_title(code); }

bool is_line_end(char32_t code) {
  return (code >= 0x0A && code <= 0x0D) || (code >= 0x1C && code <= 0x1E) || code == 0x85 ||
         code == 0x2028 || code == 0x2029;
}

bool is_stripped(std::string_view character, const std::string_view* characters) {
  if (characters == nullptr) return is_space(code_point_at(character, 0));
  return characters->find(character) != std::string_view::npos;
}

}  // namespace

size_t count_characters(std::string_view text) {
  return static_cast<size_t>(
      std::ranges::count_if(text, [](char byte) { return !is_continuation(byte); }));
}

size_t byte_of_character(std::string_view text, size_t index) {
  size_t at = 0;
  while (at < text.size() && index > 0) {
    at += utf8_length_of_lead(text[at]);
    --index;
  }
  return at;
}

std::string_view character_at(std::string_view text, size_t at) {
  return text.substr(at, utf8_length_of_lead(text[at]));
}

std::string_view last_character(std::string_view text) {
  size_t at = text.size() - 1;
  while (is_continuation(text[at])) --at;
  return text.substr(at);
}

char32_t code_point_at(std::string_view text, size_t at) {
  const std::string_view bytes = character_at(text, at);
  const auto lead = static_cast<unsigned char>(bytes[0]);
  if (bytes.size() == 1) return lead;
  char32_t code = lead & (0xFFu >> (bytes.size() + 1));
  for (const char byte : bytes.substr(1))
    code = code << 6 | (static_cast<unsigned char>(byte) & 0x3F);
  return code;
}

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t at = 0; at < text.size(); at += out.back().size()) {
    out.push_back(character_at(text, at));
  }
  return out;
}

void append_code_point(std::string& out, char32_t code) {
  char bytes[U8_MAX_LENGTH];
  int32_t length = 0;
  U8_APPEND_UNSAFE(bytes, length, code);
  out.append(bytes, static_cast<size_t>(length));
}

bool is_space(char32_t code) {
  if (code < 0x80) return (code >= 0x09 && code <= 0x0D) || (code >= 0x1C && code <= 0x20);
  return code == 0x85 || u_charType(to_icu(code)) == U_SPACE_SEPARATOR || code == 0x2028 ||
         code == 0x2029;
}

bool is_digit(char32_t code) {
  const int32_t type = u_getIntPropertyValue(to_icu(code), UCHAR_NUMERIC_TYPE);
  return type == U_NT_DECIMAL || type == U_NT_DIGIT;
}

bool is_decimal(char32_t code) {
  return u_getIntPropertyValue(to_icu(code), UCHAR_NUMERIC_TYPE) == U_NT_DECIMAL;
}

bool is_alpha(char32_t code) { return (U_GET_GC_MASK(to_icu(code)) & U_GC_L_MASK) != 0; }

bool is_alnum(char32_t code) {
  return is_alpha(code) || u_getIntPropertyValue(to_icu(code), UCHAR_NUMERIC_TYPE) != U_NT_NONE;
}

bool is_printable(char32_t code) {
  return code == ' ' || (U_GET_GC_MASK(to_icu(code)) & (U_GC_C_MASK | U_GC_Z_MASK)) == 0;
}

bool is_name_character(char32_t code) {
  return code == '_' || u_hasBinaryProperty(to_icu(code), UCHAR_XID_CONTINUE);
}

bool is_lower(char32_t code) { return u_hasBinaryProperty(to_icu(code), UCHAR_LOWERCASE); }
bool is_upper(char32_t code) { return u_hasBinaryProperty(to_icu(code), UCHAR_UPPERCASE); }
bool is_title(char32_t code) { return u_charType(to_icu(code)) == U_TITLECASE_LETTER; }

std::string to_upper(std::string_view text) { return map_case(text, ucasemap_utf8ToUpper); }
std::string to_lower(std::string_view text) { return map_case(text, ucasemap_utf8ToLower); }

std::string to_capitalized(std::string_view text) {
  if (text.empty()) return {};
  const std::string_view first = character_at(text, 0);
  // The rest is mapped with what stands before it in sight: a sigma that ends a word is another.
  const std::string lower = to_lower(text);
  return title_of(first) + lower.substr(to_lower(first).size());
}

std::string to_title(std::string_view text) {
  const std::string lower = to_lower(text);
  std::string out;
  bool in_word = false;
  size_t at_lower = 0;
  for (const std::string_view character : characters(text)) {
    const size_t length = to_lower(character).size();
    if (in_word) {
      out.append(lower, at_lower, length);
    } else {
      out += title_of(character);
    }
    at_lower += length;
    in_word = is_cased(code_point_at(character, 0));
  }
  return out;
}

std::string swap_case(std::string_view text) {
  const std::string lower = to_lower(text);
  std::string out;
  size_t at_lower = 0;
  for (const std::string_view character : characters(text)) {
    const char32_t code = code_point_at(character, 0);
    const size_t length = to_lower(character).size();
    if (is_upper(code)) {
      out.append(lower, at_lower, length);
    } else {
      out += is_lower(code) ? to_upper(character) : std::string(character);
    }
    at_lower += length;
  }
  return out;
}

std::string fold_case(std::string_view text) { return map_case(text, ucasemap_utf8FoldCase); }

bool is_lower_text(std::string_view text) {
  bool any = false;
  for (const std::string_view character : characters(text)) {
    const char32_t code = code_point_at(character, 0);
    if (is_upper(code) || is_title(code)) return false;
    any = any || is_lower(code);
  }
  return any;
}

bool is_upper_text(std::string_view text) {
  bool any = false;
  for (const std::string_view character : characters(text)) {
    const char32_t code = code_point_at(character, 0);
    if (is_lower(code) || is_title(code)) return false;
    any = any || is_upper(code);
  }
  return any;
}

bool is_title_text(std::string_view text) {
  bool any = false;
  bool in_word = false;
  for (const std::string_view character : characters(text)) {
    const char32_t code = code_point_at(character, 0);
    const bool begins = is_upper(code) || is_title(code);
    if ((begins && in_word) || (is_lower(code) && !in_word)) return false;
    in_word = begins || is_lower(code);
    any = any || in_word;
  }
  return any;
}

std::string_view strip_left(std::string_view text, const std::string_view* characters) {
  while (!text.empty()) {
    const std::string_view first = character_at(text, 0);
    if (!is_stripped(first, characters)) break;
    text.remove_prefix(first.size());
  }
  return text;
}

std::string_view strip_right(std::string_view text, const std::string_view* characters) {
  while (!text.empty()) {
    const std::string_view last = last_character(text);
    if (!is_stripped(last, characters)) break;
    text.remove_suffix(last.size());
  }
  return text;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const std::string_view character = character_at(text, at);
    size_t next = at + character.size();
    if (is_line_end(code_point_at(text, at))) {
      if (character == "\r" && next < text.size() && text[next] == '\n') ++next;
      lines.push_back(text.substr(begin, (keep_ends ? next : at) - begin));
      begin = next;
    }
    at = next;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

}  // namespace lorax::jinja
