#include "text/incremental_detokenizer.h"

#include <string_view>

namespace lorax {

std::string IncrementalDetokenizer::push(int32_t id) {
  const std::string_view piece = tokenizer_.piece(id);
  // A token that is left out does not end a run of bytes either.
  if (piece.empty() || (skip_special_tokens_ && tokenizer_.is_special(id))) return {};
  return decoding_.push(piece);
}

}  // namespace lorax
