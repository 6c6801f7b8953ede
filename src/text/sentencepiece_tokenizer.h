// tokenizer.model: the SentencePiece library, used so that its ids and texts are those of the
// tokenizer.json that Hugging Face's converter makes of the same model.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/tokenizer.h"
#include "text/tokenizer_config.h"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace lorax {

class SentencePieceTokenizer final : public Tokenizer {
 public:
  // Reads the bytes of a tokenizer.model; `origin` is its name in errors. The model's control and
  // user-defined pieces are the added tokens: the former are special, and so are <start_of_turn>
  // and <end_of_turn>, unless `config` says otherwise. Throws Error for files that
  // SentencePieceModel::parse or the library refuses.
  static std::unique_ptr<SentencePieceTokenizer> from_bytes(std::string_view bytes,
                                                            std::string_view origin,
                                                            const TokenizerConfig& config = {});
  ~SentencePieceTokenizer() override;

  std::vector<int32_t> encode(std::string_view text) const override;

 private:
  using Processor = sentencepiece::SentencePieceProcessor;

  SentencePieceTokenizer(TokenizerParts parts, std::vector<AddedToken> added_tokens,
                         std::unique_ptr<Processor> processor);

  AddedTokenMatcher added_tokens_;
  std::unique_ptr<Processor> processor_;
};

}  // namespace lorax
