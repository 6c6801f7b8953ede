// Where in a text its tokens begin.
#pragma once

#include <cstdint>

#include "text/incremental_detokenizer.h"
#include "text/tokenizer.h"

namespace lorax {

// Counts characters (code points) of the text of tokens that come one after the other. A character
// that is spelled in <0x..> tokens begins where the first of them does.
class TextOffsets {
 public:
  // The tokenizer must outlive this. `start`: the characters in front of the first token.
  TextOffsets(const Tokenizer& tokenizer, bool skip_special_tokens, int64_t start = 0);

  // The characters in front of the next token.
  int64_t next(int32_t id);

 private:
  const Tokenizer& tokenizer_;
  IncrementalDetokenizer detokenizer_;
  int64_t settled_;  // of the text that is certain
  int64_t run_ = 0;  // characters that the run of bytes behind it has begun
};

}  // namespace lorax
