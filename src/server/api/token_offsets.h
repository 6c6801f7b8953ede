// Which characters of a text its tokens stand for.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace lorax {

struct TokenOffset {
  int64_t start = 0;
  int64_t stop = 0;  // one past the last
};

// The byte of a piece "<0xE2>", which such pieces spell a text in that the vocabulary lacks.
std::optional<unsigned char> byte_of_piece(std::string_view piece);

// The characters (code points) that each of a text's tokens covers, as Hugging Face's tokenizers
// count them: a character spelled in <0x..> bytes is covered by each of its bytes. Right for
// tokenizers whose pieces spell the text character by character, such as Gemma's; in others,
// offsets drift by what normalisation adds or takes away.
std::vector<TokenOffset> token_offsets(const Tokenizer& tokenizer, std::span<const int32_t> ids);

}  // namespace lorax
