// UTF-8, checked once where text comes in; everything behind may rely on it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace lorax {

// Bytes of the well-formed sequence (Unicode 15, table 3-7) that `text` starts with; 0 if it starts
// with none.
size_t utf8_sequence_length(std::string_view text);

bool is_valid_utf8(std::string_view text);

// The text with U+FFFD in place of each maximal part of an ill-formed sequence (Unicode 15, 3.9,
// "substitution of maximal subparts"), which is what Python's errors="replace" gives.
std::string replace_invalid_utf8(std::string_view text);

// Bytes of the sequence that starts with `lead`, in text known to be valid.
inline size_t utf8_length_of_lead(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

}  // namespace lorax
