// Tokens that are found in text as they stand, before any model splits it: <start_of_turn>, runs of
// newlines. The rules are those of Hugging Face's tokenizers (added_vocabulary.rs).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lorax {

struct AddedToken {
  // Of `content`. Bounds the time of the search where files and texts are hostile.
  static constexpr size_t kMaxBytes = 1024;

  int32_t id = 0;
  std::string content;
  bool special = false;     // left out by decode(skip_special_tokens)
  bool normalized = false;  // looked for in the normalized text instead of the raw one
  bool lstrip = false;      // takes the white space in front of it along
  bool rstrip = false;      // and behind it
};

// Cuts text at the added tokens in it. Immutable, thread-safe.
class AddedTokenMatcher {
 public:
  struct Part {
    std::string_view text;
    int32_t id;  // of the token that the text is, Vocabulary::kNone for text between tokens
  };

  // Contents must have 1 to kMaxBytes bytes; of tokens with one content the first counts.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  // The parts of a text of valid UTF-8, in order and without empty ones. From left to right, the
  // longest token at the first place where any matches. Parts overlap where a token takes white
  // space along that holds tokens itself. Time: the text's length times, at worst, that of the
  // longest token.
  std::vector<Part> split(std::string_view text) const;

 private:
  struct Range {
    uint32_t first = 0;
    uint32_t last = 0;  // exclusive
  };

  // The longest token that the text starts with, nullptr if none.
  const AddedToken* longest_prefix(std::string_view text) const;

  std::vector<AddedToken> tokens_;    // sorted by content
  std::array<Range, 256> by_lead_{};  // tokens by their first byte
};

}  // namespace lorax
