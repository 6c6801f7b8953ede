#include "text/tokenizer_json.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include <boost/json/monotonic_resource.hpp>
#include <boost/json/value.hpp>

#include "base/error.h"
#include "base/quote_token.h"
#include "base/utf8.h"
#include "text/json_fields.h"

namespace lorax {
namespace {

namespace json = boost::json;

// The items of {"type": "Sequence", <list>: [...]}, or the field itself as the only one; none for
// null.
std::vector<JsonField> items_of(const JsonField& field, std::string_view list) {
  if (field.is_null()) return {};
  if (field["type"].string() != "Sequence") return {field};
  const JsonField array = field[list];
  std::vector<JsonField> items;
  for (size_t i = 0; i < array.array().size(); ++i) items.push_back(array[i]);
  return items;
}

[[noreturn]] void fail_unsupported(const JsonField& field) {
  fail("{}: {} is not supported here", field.where(), quote_token(field["type"].string()));
}

// The pattern of a Replace or Split, which may be a regular expression elsewhere.
std::string read_pattern(const JsonField& field) {
  const JsonField pattern = field["pattern"];
  if (pattern["String"].is_null()) {
    fail("{}: only patterns of the form {{\"String\": ...}} are supported", pattern.where());
  }
  const std::string_view string = pattern["String"].string();
  if (string.empty()) fail("{}: must not be empty", pattern.where());
  return std::string(string);
}

void check_growth(const std::vector<Replacement>& replacements, const JsonField& field) {
  if (!growth_is_bounded(replacements)) {
    fail(
        "{}: its steps make texts too long; no content may have more than 64 bytes, nor all "
        "together make a text more than 64 times as long",
        field.where());
  }
}

Normalizer read_normalizer(const JsonField& field) {
  Normalizer normalizer;
  for (const JsonField& item : items_of(field, "normalizers")) {
    const std::string_view type = item["type"].string();
    if (type == "Replace") {
      normalizer.steps.push_back({read_pattern(item), std::string(item["content"].string())});
    } else if (type == "Prepend") {
      normalizer.steps.push_back({"", std::string(item["prepend"].string())});
    } else {
      fail_unsupported(item);
    }
  }
  check_growth(normalizer.steps, field);
  return normalizer;
}

// Gemma's file splits at " ", which its normalizer has replaced.
void check_pre_tokenizer(const JsonField& field, const Normalizer& normalizer) {
  for (const JsonField& item : items_of(field, "pretokenizers")) {
    if (item["type"].string() != "Split") fail_unsupported(item);
    if (item.flag("invert")) fail("{}: must be false", item["invert"].where());
    const std::string pattern = read_pattern(item);
    const auto replaces = [&](const Replacement& step) { return step.pattern == pattern; };
    const auto brings = [&](const Replacement& step) {
      return step.content.find(pattern) != std::string::npos;
    };
    // A pattern of one code point cannot come about where contents meet the text around them.
    if (std::ranges::none_of(normalizer.steps, replaces) ||
        std::ranges::any_of(normalizer.steps, brings) ||
        pattern.size() != utf8_length_of_lead(pattern[0])) {
      fail("{}: a Split is supported only at one character that the normalizer replaces",
           item.where());
    }
  }
}

TextDecoder read_decoder(const JsonField& field) {
  TextDecoder decoder;
  if (field.is_null()) fail("{}: must not be null", field.where());
  int previous = 0;
  for (const JsonField& item : items_of(field, "decoders")) {
    const std::string_view type = item["type"].string();
    const int order = type == "Replace"        ? 1
                      : type == "ByteFallback" ? 2
                      : type == "Fuse"         ? 3
                      : type == "Strip"        ? 4
                                               : 0;
    if (order == 0) fail_unsupported(item);
    const bool strips_single_pieces = order == 4 && previous != 3;
    if (order < previous || strips_single_pieces) {
      fail("{}: {} is supported only in the order Replace, ByteFallback, Fuse, Strip", item.where(),
           quote_token(type));
    }
    previous = order;
    if (type == "Replace") {
      decoder.replacements.push_back({read_pattern(item), std::string(item["content"].string())});
    } else if (type == "ByteFallback") {
      decoder.byte_fallback = true;
    } else if (type == "Strip") {
      if (item["stop"].id() != 0) fail("{}: must be 0", item["stop"].where());
      decoder.strip_start = static_cast<size_t>(item["start"].id());
      decoder.strip_content = item["content"].string();
      if (decoder.strip_content.empty()) fail("{}: must not be empty", item["content"].where());
    }
  }
  check_growth(decoder.replacements, field);
  return decoder;
}

void refuse_options(const JsonField& model) {
  if (model["type"].string() != "BPE") {
    fail("{}: {} is not supported; only \"BPE\" is", model["type"].where(),
         quote_token(model["type"].string()));
  }
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const JsonField affix = model[name];
    if (!affix.is_null() && !affix.string().empty()) fail("{}: must be null", affix.where());
  }
  if (!model["dropout"].is_null() && model["dropout"].number() != 0) {
    fail("{}: must be null: ids would be random", model["dropout"].where());
  }
}

Vocabulary read_vocabulary(const JsonField& field) {
  Vocabulary vocabulary;
  for (const auto& [piece, id] : field.object()) {
    const int64_t* number = id.if_int64();
    if (number == nullptr || *number < 0 || *number >= Vocabulary::kMaxSize) {
      fail("{}: the id of {} must be a number from 0 to {}", field.where(), quote_token(piece),
           Vocabulary::kMaxSize - 1);
    }
    vocabulary.add(piece, static_cast<int32_t>(*number), field.where());
  }
  return vocabulary;
}

// The two pieces of an item of "merges"; none if it is not of a known form.
std::optional<std::pair<std::string_view, std::string_view>> pieces_of(const json::value& merge) {
  if (const json::string* text = merge.if_string()) {
    const std::string_view pair = *text;
    const size_t space = pair.find(' ');
    if (space == std::string_view::npos || pair.find(' ', space + 1) != std::string_view::npos) {
      return std::nullopt;
    }
    return std::pair(pair.substr(0, space), pair.substr(space + 1));
  }
  const json::array* array = merge.if_array();
  if (array == nullptr || array->size() != 2) return std::nullopt;
  const json::string* left = (*array)[0].if_string();
  const json::string* right = (*array)[1].if_string();
  if (left == nullptr || right == nullptr) return std::nullopt;
  return std::pair<std::string_view, std::string_view>(*left, *right);
}

std::vector<BpeMerge> read_merges(const JsonField& field, const Vocabulary& vocabulary) {
  const json::array& items = field.array();
  std::vector<BpeMerge> merges;
  merges.reserve(items.size());
  std::string joined;
  for (size_t i = 0; i < items.size(); ++i) {
    const auto pieces = pieces_of(items[i]);
    if (!pieces) fail("{}: must be \"a b\" or [\"a\", \"b\"]", field[i].where());
    const auto& [left, right] = *pieces;
    joined.assign(left).append(right);
    const auto id_of = [&](std::string_view piece) {
      const int32_t id = vocabulary.find(piece);
      if (id == Vocabulary::kNone) {
        fail("{}: the vocabulary has no token {}", field[i].where(), quote_token(piece));
      }
      return id;
    };
    merges.push_back({id_of(left), id_of(right), id_of(joined)});
  }
  return merges;
}

BpeModel read_model(const JsonField& field, const Vocabulary& vocabulary) {
  BpeOptions options;
  options.byte_fallback = field.flag("byte_fallback");
  options.fuse_unk = field.flag("fuse_unk");
  if (const JsonField unk = field["unk_token"]; !unk.is_null()) {
    options.unk_id = vocabulary.find(unk.string());
    if (options.unk_id == Vocabulary::kNone) {
      fail("{}: the vocabulary has no token {}", unk.where(), quote_token(unk.string()));
    }
  }
  return BpeModel(vocabulary, read_merges(field["merges"], vocabulary), options);
}

// Those of the file and those of the config. If the config lists any, it alone says which are
// special, as in Transformers.
std::vector<AddedToken> read_added_tokens(const JsonField& field, const TokenizerConfig& config) {
  std::vector<AddedToken> tokens;
  if (!field.is_null()) {
    for (size_t i = 0; i < field.array().size(); ++i) {
      const JsonField token = field[i];
      tokens.push_back(read_added_token(token, token["id"].id()));
    }
  }
  std::ranges::stable_sort(tokens, {}, &AddedToken::content);
  for (AddedToken& token : tokens) {
    if (config.needs_special_tokens_map) break;
    const auto same = std::ranges::find(config.added_tokens, token.content, &AddedToken::content);
    token.special = same != config.added_tokens.end() && same->special;
  }
  const size_t own = tokens.size();
  for (const AddedToken& token : config.added_tokens) {
    const auto end = tokens.begin() + static_cast<std::ptrdiff_t>(own);
    if (!std::ranges::binary_search(tokens.begin(), end, token.content, {}, &AddedToken::content)) {
      tokens.push_back(token);
    }
  }
  return tokens;
}

// Gives each added token that the model does not know its place in the vocabulary.
void add_tokens(const std::vector<AddedToken>& tokens, std::string_view origin,
                Vocabulary& vocabulary) {
  const int32_t model_size = vocabulary.size();
  for (const AddedToken& token : tokens) {
    const int32_t known = vocabulary.find(token.content);
    if (known == Vocabulary::kNone) {
      if (token.id < model_size) {
        fail("{}: the added token {} has the id {}, which lies among those of the vocabulary",
             origin, quote_token(token.content), token.id);
      }
      vocabulary.add(token.content, token.id, origin);
    } else if (known != token.id) {
      fail("{}: the added token {} has the id {}, but {} in the vocabulary", origin,
           quote_token(token.content), token.id, known);
    }
  }
}

// The special token that a template puts in front of a text.
std::optional<int32_t> read_template_bos(const JsonField& root, const Vocabulary& vocabulary) {
  for (const JsonField& item : items_of(root["post_processor"], "processors")) {
    if (item["type"].string() != "TemplateProcessing") continue;
    const JsonField single = item["single"];
    if (single.array().empty()) continue;
    const JsonField first = single[0]["SpecialToken"];
    if (first.is_null()) continue;
    const int32_t id = vocabulary.find(first["id"].string());
    if (id != Vocabulary::kNone) return id;
  }
  return std::nullopt;
}

}  // namespace

TokenizerJson read_tokenizer_json(std::string_view bytes, std::string_view origin,
                                  const TokenizerConfig& config) {
  json::monotonic_resource memory;
  const json::value value = parse_tokenizer_json(bytes, origin, &memory);
  const JsonField root(value, std::string(origin) + ":");
  const JsonField model = root["model"];
  refuse_options(model);
  Normalizer normalizer = read_normalizer(root["normalizer"]);
  check_pre_tokenizer(root["pre_tokenizer"], normalizer);
  TokenizerParts parts;
  parts.decoder = read_decoder(root["decoder"]);
  parts.vocabulary = read_vocabulary(model["vocab"]);
  BpeModel bpe = read_model(model, parts.vocabulary);

  std::vector<AddedToken> added_tokens = read_added_tokens(root["added_tokens"], config);
  const int32_t model_size = parts.vocabulary.size();
  add_tokens(added_tokens, origin, parts.vocabulary);
  set_special_tokens(added_tokens, config, origin, parts);
  const std::optional<int32_t> template_bos = read_template_bos(root, parts.vocabulary);
  if (!parts.bos_id) parts.bos_id = template_bos;
  parts.adds_bos = parts.bos_id && config.add_bos_token.value_or(template_bos.has_value());
  return {std::move(parts), std::move(added_tokens),    std::move(normalizer), std::move(bpe),
          model_size,       model.flag("ignore_merges")};
}

}  // namespace lorax
