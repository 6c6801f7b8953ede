// What the tokenizer's fuzz targets do with a tokenizer that came out of foreign bytes.
#pragma once

#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/utf8.h"
#include "text/incremental_detokenizer.h"
#include "text/tokenizer.h"

namespace lorax {

// Encodes the text, decodes the ids in both ways, and traps where a promise of tokenizer.h is
// broken.
inline void exercise(const Tokenizer& tokenizer, std::string_view text) {
  const std::vector<int32_t> ids = tokenizer.encode(text);
  for (const int32_t id : ids) {
    if (id < 0 || id >= tokenizer.vocab_size() || tokenizer.piece(id).empty()) __builtin_trap();
  }
  for (const bool skip_special_tokens : {false, true}) {
    IncrementalDetokenizer detokenizer(tokenizer, skip_special_tokens);
    std::string streamed;
    for (const int32_t id : ids) {
      const std::string added = detokenizer.push(id);
      if (!is_valid_utf8(added)) __builtin_trap();
      streamed += added;
    }
    streamed += detokenizer.finish();
    if (streamed != tokenizer.decode(ids, skip_special_tokens)) __builtin_trap();
  }
}

}  // namespace lorax
