// Reads Hugging Face's tokenizer.json.
#pragma once

#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe_model.h"
#include "text/normalizer.h"
#include "text/tokenizer.h"
#include "text/tokenizer_config.h"

namespace lorax {

struct TokenizerJson {
  TokenizerParts parts;
  std::vector<AddedToken> added_tokens;
  Normalizer normalizer;
  BpeModel model;
  int32_t model_size = 0;  // ids from here on are of added tokens, which the model does not know
  bool ignore_merges = false;  // a stretch of text that is a piece is that piece, merges or not
};

// Understands what the Gemma and Llama families write:
//   model           BPE without dropout, prefix and suffix; merges as "a b" or ["a", "b"]
//   normalizer      null, Replace (of a string), Prepend, or a Sequence of them
//   pre_tokenizer   null, or a Split that finds nothing to split in normalized text
//   decoder         Replace (of a string), ByteFallback, Fuse, Strip at the start, in this order
//   post_processor  read for its bos only
//   added_tokens    all but single_word
// `truncation` and `padding` are ignored, as Hugging Face's transformers do. Of `config` it takes
// bos, eos and the added tokens that the file does not have. Throws Error that begins with `origin`
// and names the field for anything else, rather than give other ids than the reference, and for
// texts that are no tokenizer at all.
TokenizerJson read_tokenizer_json(std::string_view bytes, std::string_view origin,
                                  const TokenizerConfig& config);

}  // namespace lorax
