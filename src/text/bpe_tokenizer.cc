#include "text/bpe_tokenizer.h"

#include <algorithm>
#include <utility>

#include "base/utf8.h"

namespace lorax {
namespace {

// Those of the tokens that are looked for in normalized text, normalized themselves, or the others.
AddedTokenMatcher make_matcher(const TokenizerJson& json, bool normalized) {
  std::vector<AddedToken> tokens;
  for (AddedToken token : json.added_tokens) {
    if (token.normalized != normalized) continue;
    if (normalized) token.content = json.normalizer.apply(token.content);
    if (!token.content.empty()) tokens.push_back(std::move(token));
  }
  return AddedTokenMatcher(std::move(tokens));
}

}  // namespace

BpeTokenizer::BpeTokenizer(TokenizerJson json)
    : Tokenizer(std::move(json.parts)),
      normalizer_(json.normalizer),
      raw_tokens_(make_matcher(json, false)),
      normalized_tokens_(make_matcher(json, true)),
      model_(std::move(json.model)),
      model_size_(json.model_size),
      ignore_merges_(json.ignore_merges) {}

std::unique_ptr<BpeTokenizer> BpeTokenizer::from_json(std::string_view bytes,
                                                      std::string_view origin,
                                                      const TokenizerConfig& config) {
  return std::unique_ptr<BpeTokenizer>(
      new BpeTokenizer(read_tokenizer_json(bytes, origin, config)));
}

std::vector<int32_t> BpeTokenizer::encode(std::string_view text) const {
  check_length(text);
  if (!is_valid_utf8(text)) return encode(replace_invalid_utf8(text));
  std::vector<int32_t> ids;
  for (const AddedTokenMatcher::Part& part : raw_tokens_.split(text)) {
    if (part.id != Vocabulary::kNone) {
      ids.push_back(part.id);
      continue;
    }
    const std::string normalized = normalizer_.apply(part.text);
    for (const AddedTokenMatcher::Part& stretch : normalized_tokens_.split(normalized)) {
      if (stretch.id != Vocabulary::kNone) {
        ids.push_back(stretch.id);
      } else {
        encode_stretch(stretch.text, ids);
      }
    }
  }
  return ids;
}

void BpeTokenizer::encode_stretch(std::string_view normalized, std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    const int32_t id = vocabulary().find(normalized);
    if (id != Vocabulary::kNone && id < model_size_) {
      ids.push_back(id);
      return;
    }
  }
  model_.encode(normalized, ids);
}

}  // namespace lorax
