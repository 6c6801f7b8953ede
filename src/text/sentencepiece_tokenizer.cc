#include "text/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <exception>
#include <string>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/utf8.h"
#include "text/sentencepiece_model.h"

namespace lorax {
namespace {

using Type = SentencePieceModel::Type;

std::unique_ptr<sentencepiece::SentencePieceProcessor> load_processor(std::string_view bytes,
                                                                      std::string_view origin) {
  auto processor = std::make_unique<sentencepiece::SentencePieceProcessor>();
  try {
    const auto status = processor->LoadFromSerializedProto(bytes);
    if (status.ok()) return processor;
    fail("{}: SentencePiece refuses it: {}", origin, status.ToString());
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    fail("{}: SentencePiece refuses it: {}", origin, error.what());
  }
}

Vocabulary make_vocabulary(const SentencePieceModel& model, std::string_view origin) {
  Vocabulary vocabulary;
  int32_t tab_byte = Vocabulary::kNone;
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    const auto id = static_cast<int32_t>(&piece - model.pieces.data());
    if (piece.text == "<0x09>" && piece.type == Type::kByte) {
      tab_byte = id;
    } else {
      vocabulary.add(piece.text, id, origin);
    }
  }
  // As Hugging Face's converter for Gemma has it, the byte of a tab goes by its character.
  if (tab_byte != Vocabulary::kNone) {
    const bool has_tab = vocabulary.find("\t") != Vocabulary::kNone;
    vocabulary.add(has_tab ? "<0x09>" : "\t", tab_byte, origin);
  }
  return vocabulary;
}

// The config's tokens, then those of the model that it does not mention.
std::vector<AddedToken> find_added_tokens(const SentencePieceModel& model,
                                          const TokenizerConfig& config, std::string_view origin,
                                          Vocabulary& vocabulary) {
  std::vector<AddedToken> tokens = config.added_tokens;
  std::unordered_set<std::string_view> in_config;
  for (const AddedToken& token : config.added_tokens) {
    in_config.insert(token.content);
    // Throws for a token of the model that the config gives another id.
    if (vocabulary.find(token.content) != token.id) {
      vocabulary.add(token.content, token.id, origin);
    }
  }
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    if (piece.type == Type::kNormal || piece.type == Type::kUnused || piece.type == Type::kByte) {
      continue;
    }
    const bool special = piece.type != Type::kUserDefined || piece.text == "<start_of_turn>" ||
                         piece.text == "<end_of_turn>";
    if (in_config.contains(piece.text)) continue;
    tokens.push_back({.id = static_cast<int32_t>(&piece - model.pieces.data()),
                      .content = std::string(piece.text),
                      .special = special});
  }
  return tokens;
}

std::optional<int32_t> some_if_valid(int id) {
  if (id < 0) return std::nullopt;
  return id;
}

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer(TokenizerParts parts,
                                               std::vector<AddedToken> added_tokens,
                                               std::unique_ptr<Processor> processor)
    : Tokenizer(std::move(parts)),
      added_tokens_(std::move(added_tokens)),
      processor_(std::move(processor)) {}

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

std::unique_ptr<SentencePieceTokenizer> SentencePieceTokenizer::from_bytes(
    std::string_view bytes, std::string_view origin, const TokenizerConfig& config) {
  const SentencePieceModel model = SentencePieceModel::parse(bytes, origin);
  auto processor = load_processor(bytes, origin);
  TokenizerParts parts;
  parts.vocabulary = make_vocabulary(model, origin);
  std::vector<AddedToken> added_tokens = find_added_tokens(model, config, origin, parts.vocabulary);
  parts.decoder.replacements = {{"▁", " "}};
  parts.decoder.byte_fallback = true;
  set_special_tokens(added_tokens, config, origin, parts);
  if (!parts.bos_id) parts.bos_id = some_if_valid(processor->bos_id());
  if (!parts.eos_id) parts.eos_id = some_if_valid(processor->eos_id());
  parts.adds_bos = parts.bos_id && config.add_bos_token.value_or(true);
  return std::unique_ptr<SentencePieceTokenizer>(
      new SentencePieceTokenizer(std::move(parts), std::move(added_tokens), std::move(processor)));
}

std::vector<int32_t> SentencePieceTokenizer::encode(std::string_view text) const {
  check_length(text);
  if (!is_valid_utf8(text)) return encode(replace_invalid_utf8(text));
  std::vector<int32_t> ids;
  // The library finds user-defined pieces itself, but in normalized text, and no control pieces.
  for (const AddedTokenMatcher::Part& part : added_tokens_.split(text)) {
    if (part.id != Vocabulary::kNone) {
      ids.push_back(part.id);
      continue;
    }
    std::vector<int> stretch;
    const auto status = processor_->Encode(part.text, &stretch);
    if (!status.ok()) fail("SentencePiece cannot encode a text: {}", status.ToString());
    ids.insert(ids.end(), stretch.begin(), stretch.end());
  }
  return ids;
}

}  // namespace lorax
