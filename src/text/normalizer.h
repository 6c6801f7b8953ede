// What a tokenizer.json does to text before the model sees it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/string_replace.h"

namespace lorax {

// Steps, run in order. Immutable, thread-safe.
struct Normalizer {
  // An empty pattern: the content goes in front of the text.
  std::vector<Replacement> steps;

  // An empty text stays empty.
  std::string apply(std::string_view text) const;
};

}  // namespace lorax
