// What a tokenizer.json does to text before the model sees it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lorax {

// Steps, run in order. Immutable, thread-safe.
struct Normalizer {
  struct Step {
    std::string pattern;  // to be replaced everywhere; empty: `content` goes in front of the text
    std::string content;
  };

  std::vector<Step> steps;

  // An empty text stays empty.
  std::string apply(std::string_view text) const;
};

}  // namespace lorax
