// Text from ids as they are generated, for streaming.
#pragma once

#include <cstdint>
#include <string>

#include "text/text_decoder.h"
#include "text/tokenizer.h"

namespace lorax {

// All texts together are tokenizer.decode(all ids), and each is valid UTF-8: a code point that is
// spelled in <0x..> tokens is held back until the run of such tokens ends.
class IncrementalDetokenizer {
 public:
  // The tokenizer must outlive this.
  IncrementalDetokenizer(const Tokenizer& tokenizer, bool skip_special_tokens)
      : tokenizer_(tokenizer),
        skip_special_tokens_(skip_special_tokens),
        decoding_(tokenizer.text_decoder()) {}

  // The text that the next id adds; often empty.
  std::string push(int32_t id);
  // The text held back. Nothing may be pushed after.
  std::string finish() { return decoding_.finish(); }

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_tokens_;
  TextDecoding decoding_;
};

}  // namespace lorax
