// tokenizer_config.json: what the two forms of a tokenizer do not say themselves.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/tokenizer.h"

namespace lorax {

struct TokenizerConfig {
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  std::optional<bool> add_bos_token;
  std::vector<AddedToken> added_tokens;  // "added_tokens_decoder", by id
  // Names that tokens have there: "mask_token", special whatever the tokenizer itself says of them,
  // and "additional_special_tokens", special unless they are added tokens that say otherwise.
  std::vector<std::string> special_names;
  std::vector<std::string> additional_names;
  std::vector<std::string> named_kinds;  // "mask_token", for which there is a name, or null

  // Whether special_tokens_map.json says more: it does where the config lists no added tokens.
  bool needs_special_tokens_map = true;

  // Takes over the names of special tokens in a special_tokens_map.json. Throws as from_json.
  void read_special_tokens_map(std::string_view bytes, std::string_view origin);

  // Adds Gemma's usual names of kinds that have none, as AutoTokenizer does for a model's folder.
  void add_usual_names();

  // Throws Error that begins with `origin` and names the field.
  static TokenizerConfig from_json(std::string_view bytes, std::string_view origin);
};

// Notes in `parts` which of its vocabulary's tokens are special: those that say so, those that the
// config names. Also bos and eos as
// `config` names them; without a name, a special token "<eos>" is eos. Throws Error that begins
// with `origin` if the vocabulary lacks them.
void set_special_tokens(const std::vector<AddedToken>& added_tokens, const TokenizerConfig& config,
                        std::string_view origin, TokenizerParts& parts);

}  // namespace lorax
