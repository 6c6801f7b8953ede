// Strings as Python sees them: sequences of code points, with the Unicode tables of ICU. All texts
// are valid UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lorax::jinja {

size_t count_characters(std::string_view text);
// Where the character of an index begins; the text's size for an index at its end or beyond.
size_t byte_of_character(std::string_view text, size_t index);
// The character that starts at byte `at`, or ends a text, as a view; as a code point.
std::string_view character_at(std::string_view text, size_t at);
std::string_view last_character(std::string_view text);
char32_t code_point_at(std::string_view text, size_t at);
std::vector<std::string_view> characters(std::string_view text);
void append_code_point(std::string& out, char32_t code);

// str.isspace, isdigit, isalpha, isalnum of one character; whether repr prints it as it is.
bool is_space(char32_t code);
bool is_digit(char32_t code);
bool is_decimal(char32_t code);
bool is_alpha(char32_t code);
bool is_alnum(char32_t code);
bool is_printable(char32_t code);
// Whether the character may stand in a name after its first.
bool is_name_character(char32_t code);
bool is_lower(char32_t code);
bool is_upper(char32_t code);
bool is_title(char32_t code);

// Full case mapping of the root locale, as str.upper, lower, capitalize, title and swapcase.
std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string to_capitalized(std::string_view text);
std::string to_title(std::string_view text);
std::string swap_case(std::string_view text);

std::string fold_case(std::string_view text);
// str.islower, isupper and istitle.
bool is_lower_text(std::string_view text);
bool is_upper_text(std::string_view text);
bool is_title_text(std::string_view text);

// str.strip and its siblings; without `characters`, white space.
std::string_view strip_left(std::string_view text, const std::string_view* characters = nullptr);
std::string_view strip_right(std::string_view text, const std::string_view* characters = nullptr);

// str.splitlines.
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends = false);

}  // namespace lorax::jinja
