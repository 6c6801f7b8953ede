// Hugging Face's tokenizer.json with a BPE model, the form that models and fine-tunes ship.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe_model.h"
#include "text/normalizer.h"
#include "text/tokenizer.h"
#include "text/tokenizer_config.h"
#include "text/tokenizer_json.h"

namespace lorax {

class BpeTokenizer final : public Tokenizer {
 public:
  // Reads the text of a tokenizer.json (read_tokenizer_json says what may be in it); `origin` is
  // its name in errors. Throws Error.
  static std::unique_ptr<BpeTokenizer> from_json(std::string_view bytes, std::string_view origin,
                                                 const TokenizerConfig& config = {});

  std::vector<int32_t> encode(std::string_view text) const override;

 private:
  explicit BpeTokenizer(TokenizerJson json);
  void encode_stretch(std::string_view normalized, std::vector<int32_t>& ids) const;

  Normalizer normalizer_;
  AddedTokenMatcher raw_tokens_;         // looked for in the text as it is
  AddedTokenMatcher normalized_tokens_;  // looked for in normalized text
  BpeModel model_;
  int32_t model_size_;
  bool ignore_merges_;
};

}  // namespace lorax
