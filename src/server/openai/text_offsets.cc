#include "server/openai/text_offsets.h"

#include <algorithm>

#include "server/api/response_headers.h"
#include "server/api/token_offsets.h"

namespace lorax {

TextOffsets::TextOffsets(const Tokenizer& tokenizer, bool skip_special_tokens, int64_t start)
    : tokenizer_(tokenizer), detokenizer_(tokenizer, skip_special_tokens), settled_(start) {}

int64_t TextOffsets::next(int32_t id) {
  if (const auto byte = byte_of_piece(tokenizer_.piece(id))) {
    detokenizer_.push(id);
    if ((*byte & 0xc0) != 0x80) ++run_;
    return settled_ + std::max<int64_t>(run_ - 1, 0);
  }
  const std::string in_front = IncrementalDetokenizer(detokenizer_).finish();
  const int64_t offset = settled_ + static_cast<int64_t>(count_characters(in_front));
  const std::string text = detokenizer_.push(id);
  if (!text.empty()) {
    settled_ += static_cast<int64_t>(count_characters(text));
    run_ = 0;
  }
  return offset;
}

}  // namespace lorax
