// Searching, splitting and padding of texts, as Python's str does it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/value.h"

namespace lorax::jinja {

// text[start:end], where a bound that is none stands for the end; not valid where start lies behind
// the text or behind end.
struct Range {
  std::string_view text;
  size_t begin = 0;  // in characters
  bool valid = true;
};
Range character_range(std::string_view text, const Value& start, const Value& end);

// As std::string_view::find and rfind, in time that only grows with the two lengths' sum.
size_t find_text(std::string_view text, std::string_view wanted, size_t from = 0);
size_t find_last_text(std::string_view text, std::string_view wanted);

// At most `limit` cuts, from the left or from the right.
std::vector<std::string_view> split_on(std::string_view text, std::string_view separator,
                                       size_t limit, bool from_right);
std::vector<std::string_view> split_on_space(std::string_view text, size_t limit, bool from_right);

size_t count_occurrences(std::string_view text, std::string_view wanted);
// All of them for a negative `limit`.
std::string replace_occurrences(Budget& budget, std::string_view text, std::string_view wanted,
                                std::string_view replacement, Integer limit);

// Filled up to `width` characters; `side` says where the text stands: -1 left, 0 middle, 1 right.
std::string pad_text(Budget& budget, std::string_view text, Integer width, std::string_view fill,
                     int side);

}  // namespace lorax::jinja
