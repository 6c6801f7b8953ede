#include "text/tokenizer_config.h"

#include <algorithm>
#include <charconv>

#include <boost/json/value.hpp>

#include "base/error.h"
#include "text/json_fields.h"
#include "text/quote_token.h"

namespace lorax {
namespace {

// A token is named by its text, or by an object of added_tokens.
std::optional<std::string> read_token(const JsonField& field) {
  if (field.is_null()) return std::nullopt;
  return std::string(field.is_string() ? field.string() : field["content"].string());
}

int32_t parse_id(std::string_view key, const JsonField& field) {
  int32_t id = -1;
  const auto result = std::from_chars(key.data(), key.data() + key.size(), id);
  if (result.ec != std::errc() || result.ptr != key.data() + key.size() || id < 0) {
    fail("{}: the key must be a token's id", field.where());
  }
  return id;
}

// The id of the token that `field` of the config names.
std::optional<int32_t> find_token(const std::optional<std::string>& token, std::string_view field,
                                  std::string_view origin, const Vocabulary& vocabulary) {
  if (!token) return std::nullopt;
  const int32_t id = vocabulary.find(*token);
  if (id == Vocabulary::kNone) {
    fail("{}: has no token {}, which tokenizer_config.json names as {}", origin,
         quote_token(*token), field);
  }
  return id;
}

}  // namespace

TokenizerConfig TokenizerConfig::from_json(std::string_view bytes, std::string_view origin) {
  const boost::json::value value = parse_tokenizer_json(bytes, origin);
  const JsonField root(value, std::string(origin) + ":");
  TokenizerConfig config;
  config.bos_token = read_token(root["bos_token"]);
  config.eos_token = read_token(root["eos_token"]);
  if (const JsonField add = root["add_bos_token"]; !add.is_null()) {
    config.add_bos_token = add.boolean();
  }
  if (const JsonField tokens = root["added_tokens_decoder"]; !tokens.is_null()) {
    for (const auto& [key, unused] : tokens.object()) {
      const JsonField token = tokens[key];
      config.added_tokens.push_back(read_added_token(token, parse_id(key, token)));
    }
    std::ranges::sort(config.added_tokens, {}, &AddedToken::id);
  }
  return config;
}

void set_special_tokens(const std::vector<AddedToken>& added_tokens, const TokenizerConfig& config,
                        std::string_view origin, TokenizerParts& parts) {
  parts.bos_id = find_token(config.bos_token, "bos_token", origin, parts.vocabulary);
  parts.eos_id = find_token(config.eos_token, "eos_token", origin, parts.vocabulary);
  for (const AddedToken& token : added_tokens) {
    if (!token.special) continue;
    parts.special_ids.push_back(token.id);
    if (!parts.eos_id && token.content == "<eos>") parts.eos_id = token.id;
  }
}

}  // namespace lorax
