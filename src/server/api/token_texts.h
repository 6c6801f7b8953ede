// LoRAX's tokens have the text that they add: clients put those of a stream together.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "engine/schedule/generation_service.h"
#include "text/incremental_detokenizer.h"
#include "text/tokenizer.h"

namespace lorax {

// The texts of all tokens but the special ones, one after the other, are the text of all: what
// Tokenizer::decode gives without special tokens. Special tokens are spelled out. Of a code point
// that is spelled in bytes the last one has all of it, the others nothing; bytes that are no text
// are U+FFFD each, which is known once their run has ended.
class TokenTexts {
 public:
  // The tokenizer must outlive this.
  explicit TokenTexts(const Tokenizer& tokenizer)
      : tokenizer_(tokenizer), detokenizer_(tokenizer, /*skip_special_tokens=*/false) {}

  // Takes the next token. Returns the texts that have become certain, of the oldest tokens whose
  // text was not.
  std::vector<std::string> push(const TokenInfo& token);
  // Those that are left. Nothing may be pushed after.
  std::vector<std::string> finish();

 private:
  // A token of a run of bytes, or one within it that does not end it.
  struct Waiting {
    std::optional<unsigned char> byte;
    std::string text;
  };

  const Tokenizer& tokenizer_;
  IncrementalDetokenizer detokenizer_;  // of what is not spelled in bytes
  std::deque<Waiting> run_;
};

}  // namespace lorax
