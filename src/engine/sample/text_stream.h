// The text of one request as its tokens come: what may be handed out, and whether a stop string
// has ended it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/sample/stop_matcher.h"
#include "text/incremental_detokenizer.h"
#include "text/tokenizer.h"

namespace lorax {

class TextStream {
 public:
  // The tokenizer must outlive this.
  TextStream(const Tokenizer& tokenizer, const std::vector<std::string>& stops);

  // What the text surely gains by the next token: whole code points, special tokens left out,
  // nothing that belongs to a stop string or may turn out to. Without `may_stop`, stop strings that
  // end in it end nothing. Nothing may be pushed once stopped().
  std::string push(int32_t id, bool may_stop = true);
  // What was held back, for a text that no stop string has ended. Nothing may be pushed after.
  std::string finish();

  bool stopped() const { return stop_ != nullptr; }
  // Precondition: stopped().
  const std::string& stop_sequence() const { return *stop_; }

 private:
  // Takes text that is certain; what may be handed out of all held back.
  std::string take(const std::string& text, bool may_stop = true);

  IncrementalDetokenizer detokenizer_;
  StopMatcher matcher_;
  std::string held_;  // may be the beginning of a stop string
  const std::string* stop_ = nullptr;
};

// A single token's text, special ones spelled out: what it looks like beside its probability. A
// byte that is no whole code point is U+FFFD.
std::string spell_token(const Tokenizer& tokenizer, int32_t id);

}  // namespace lorax
