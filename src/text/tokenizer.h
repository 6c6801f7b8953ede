// Text to token ids and back. Two forms of one tokenizer: Hugging Face's tokenizer.json (our own
// byte-pair encoder, bpe_tokenizer.h) and tokenizer.model (the SentencePiece library,
// sentencepiece_tokenizer.h). Both give the ids and texts of Hugging Face's tokenizers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/folder.h"
#include "text/text_decoder.h"
#include "text/vocabulary.h"

namespace lorax {

// What every form of a tokenizer has, found in its files.
struct TokenizerParts {
  Vocabulary vocabulary;
  std::vector<int32_t> special_ids;
  TextDecoder decoder;
  std::optional<int32_t> bos_id;
  std::optional<int32_t> eos_id;
  bool adds_bos = false;
};

// Immutable once made; all methods are thread-safe.
class Tokenizer {
 public:
  // Of a text to encode; no model's context is near it.
  static constexpr size_t kMaxTextBytes = size_t{32} << 20;

  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // The ids of a text. Added tokens, special ones included, are found in it: "<bos>" is one id. No
  // bos is put in front (see adds_bos). Bytes that are not UTF-8 count as U+FFFD, as in
  // replace_invalid_utf8. Time and memory grow with the text's length (times its logarithm, for
  // text without spaces). Throws Error for a text longer than kMaxTextBytes.
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;

  // The text of ids, valid UTF-8. Ids without a piece give nothing, since a model's vocabulary may
  // be padded beyond the tokenizer's.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  // The highest id plus one.
  int32_t vocab_size() const { return parts_.vocabulary.size(); }
  // The piece of an id as the vocabulary spells it, "▁the"; empty if it has none. Lives as long as
  // the tokenizer.
  std::string_view piece(int32_t id) const { return parts_.vocabulary.piece(id); }
  std::optional<int32_t> find_piece(std::string_view piece) const;
  // Whether decode leaves the id out if told to skip special tokens.
  bool is_special(int32_t id) const;

  // The tokens that begin and end a text, where the files name them.
  std::optional<int32_t> bos_id() const { return parts_.bos_id; }
  std::optional<int32_t> eos_id() const { return parts_.eos_id; }
  // Whether a prompt begins with bos unless it brings its own.
  bool adds_bos() const { return parts_.adds_bos; }

  const TextDecoder& text_decoder() const { return parts_.decoder; }

 protected:
  explicit Tokenizer(TokenizerParts parts);
  const Vocabulary& vocabulary() const { return parts_.vocabulary; }
  // Throws the Error of encode.
  static void check_length(std::string_view text);

 private:
  TokenizerParts parts_;
};

// Whether a model's folder has a file that load_tokenizer() takes.
bool has_tokenizer(const std::filesystem::path& model_dir);

// The tokenizer of a model's folder: tokenizer.json if there is one, else tokenizer.model. Throws
// Error as below, or one that names the folder if it has neither.
std::unique_ptr<Tokenizer> load_tokenizer(const Folder& folder);
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& model_dir);

// The tokenizer of a tokenizer.json or tokenizer.model, with the tokenizer_config.json beside it if
// there is one. Throws Error that names the file and what is wrong in it.
std::unique_ptr<Tokenizer> load_tokenizer_file(const std::filesystem::path& file);

}  // namespace lorax
