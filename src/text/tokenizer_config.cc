#include "text/tokenizer_config.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include <boost/json/value.hpp>

#include "base/error.h"
#include "base/quote_token.h"
#include "text/json_fields.h"

namespace lorax {
namespace {

// What Transformers calls the tokens of a Gemma tokenizer that does not say itself.
constexpr std::pair<std::string_view, std::string_view> kUsualNames[] = {
    {"bos_token", "<bos>"}, {"eos_token", "<eos>"}, {"mask_token", "<mask>"},
    {"pad_token", "<pad>"}, {"unk_token", "<unk>"},
};

// A token is named by its text, or by an object of added_tokens.
std::optional<std::string> read_token(const JsonField& field) {
  if (field.is_null()) return std::nullopt;
  return std::string(field.is_string() ? field.string() : field["content"].string());
}

// Takes over what names special tokens: "..._token" and lists of more.
void read_special_names(const JsonField& root, TokenizerConfig& config) {
  for (const auto& [key, unused] : root.object()) {
    const JsonField field = root[key];
    if (std::string_view(key).ends_with("_token")) {
      const bool is_name = field.is_string() || field.is_object();
      if (is_name || field.is_null()) config.named_kinds.emplace_back(key);
      if (is_name) config.special_names.push_back(*read_token(field));
    } else if (key == "additional_special_tokens" || key == "extra_special_tokens") {
      if (field.is_object()) {
        for (const auto& [name, of_model] : field.object()) {
          if (const auto token = read_token(field[name])) config.additional_names.push_back(*token);
        }
      } else if (field.is_array()) {
        for (size_t i = 0; i < field.array().size(); ++i) {
          if (const auto token = read_token(field[i])) config.additional_names.push_back(*token);
        }
      }
    }
  }
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
  read_special_names(root, config);
  config.bos_token = read_token(root["bos_token"]);
  config.eos_token = read_token(root["eos_token"]);
  if (const JsonField add = root["add_bos_token"]; !add.is_null()) {
    config.add_bos_token = add.boolean();
  }
  if (const JsonField tokens = root["added_tokens_decoder"]; !tokens.is_null()) {
    config.needs_special_tokens_map = false;
    for (const auto& [key, unused] : tokens.object()) {
      const JsonField token = tokens[key];
      config.added_tokens.push_back(read_added_token(token, parse_id(key, token)));
    }
    std::ranges::sort(config.added_tokens, {}, &AddedToken::id);
  }
  return config;
}

void TokenizerConfig::read_special_tokens_map(std::string_view bytes, std::string_view origin) {
  const boost::json::value value = parse_tokenizer_json(bytes, origin);
  read_special_names(JsonField(value, std::string(origin) + ":"), *this);
}

void TokenizerConfig::add_usual_names() {
  for (const auto& [kind, name] : kUsualNames) {
    if (std::ranges::find(named_kinds, kind) == named_kinds.end()) special_names.emplace_back(name);
  }
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
  const auto add = [&](std::string_view name) {
    const int32_t id = parts.vocabulary.find(name);
    if (id != Vocabulary::kNone) parts.special_ids.push_back(id);
  };
  for (const std::string& name : config.special_names) add(name);
  for (const std::string& name : config.additional_names) {
    if (std::ranges::find(added_tokens, name, &AddedToken::content) == added_tokens.end())
      add(name);
  }
}

}  // namespace lorax
