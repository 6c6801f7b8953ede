// Replacing strings in strings, as the steps of a tokenizer.json do.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace lorax {

// The text with `content` for each `pattern`, which must not be empty, found from left to right.
std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content);

struct Replacement {
  std::string pattern;
  std::string content;
};

// Whether replacements, run one after the other, make a text at most 64 times as long, and none
// brings more than 64 bytes. No useful tokenizer asks for more; a hostile one could for 2^100.
bool growth_is_bounded(std::span<const Replacement> replacements);

}  // namespace lorax
