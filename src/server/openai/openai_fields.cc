#include "server/openai/openai_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "formats/printable.h"

namespace lorax::fields {

namespace json = boost::json;

namespace {

// Each of them is looked at for each token.
constexpr size_t kMostBadWords = 1000;

// A regular expression of the numbers from 0 to n - 1, without leading zeros.
std::string ids_pattern(int32_t n) {
  const std::string last = std::to_string(n - 1);
  std::string pattern = "^(0";
  for (size_t digits = 1; digits < last.size(); ++digits) {
    pattern += fmt::format("|[1-9][0-9]{{{}}}", digits - 1);
  }
  for (size_t i = 0; i < last.size(); ++i) {
    const char least = i == 0 ? '1' : '0';
    if (last[i] > least) {
      pattern += fmt::format("|{}[{}-{}][0-9]{{{}}}", last.substr(0, i), least,
                             static_cast<char>(last[i] - 1), last.size() - i - 1);
    }
  }
  return pattern + "|" + last + ")$";
}

int32_t token_id(std::string_view key, int32_t vocab_size) {
  int32_t id = -1;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
  if (error != std::errc() || end != key.data() + key.size() || id < 0 || id >= vocab_size) {
    refuse("logit_bias", fmt::format("`logit_bias` has the key \"{}\"; keys must be token ids from "
                                     "0 to {}",
                                     printable(key), vocab_size - 1));
  }
  return id;
}

}  // namespace

void read_logit_bias(const json::value& value, int32_t vocab_size,
                     std::vector<std::pair<int32_t, float>>& bias) {
  if (!value.is_object()) wrong_type(value, "logit_bias", "an object of token ids and numbers");
  constexpr NumberRange kRange = {.at_least = -100, .at_most = 100};
  for (const auto& [key, number] : value.get_object()) {
    double amount = 0.0;
    read(number, "logit_bias", amount);
    check_range("logit_bias", amount, kRange);
    bias.emplace_back(token_id(key, vocab_size), static_cast<float>(amount));
  }
}

void read_token_ids(const json::value& value, std::string_view name, int32_t vocab_size,
                    std::vector<int32_t>& ids) {
  if (!value.is_array()) wrong_type(value, name, "a list of token ids");
  for (const json::value& element : value.get_array()) {
    int64_t id = -1;
    if (!element.is_number()) wrong_type(element, name, "a list of token ids");
    read(element, name, id);
    if (id < 0 || id >= vocab_size) {
      refuse(name, fmt::format("`{}` has the token id {}; ids are from 0 to {}", name, id,
                               vocab_size - 1));
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  std::ranges::sort(ids);
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
}

void read_bad_words(const json::value& value, std::vector<std::string>& words) {
  read(value, "bad_words", words);
  if (words.size() > kMostBadWords) {
    refuse("bad_words",
           fmt::format("`bad_words` takes up to {} words. Given: {}", kMostBadWords, words.size()));
  }
  if (std::ranges::any_of(words, [](const std::string& word) { return word.empty(); })) {
    refuse("bad_words", "`bad_words` has an empty word; leave it out");
  }
}

void read_stream_options(const json::value& value, OpenAiFields& fields) {
  if (!value.is_object()) wrong_type(value, "stream_options", "an object");
  const json::object& options = value.get_object();
  const json::value* usage = options.if_contains("include_usage");
  if (usage != nullptr && !usage->is_null()) read(*usage, "include_usage", fields.include_usage);
  take_unread(
      options, FieldPlace::kStreamOptions, "stream_options.",
      [](std::string_view name) { return name == "include_usage"; }, fields.ignored);
}

json::object token_ids_schema(int32_t vocab_size, const FieldDoc& doc) {
  json::object schema = {
      {"type", {"array", "null"}},
      {"items", {{"type", "integer"}, {"minimum", 0}, {"maximum", vocab_size - 1}}}};
  document(schema, doc);
  return schema;
}

json::object bad_words_schema() {
  json::object schema = {{"type", {"array", "null"}},
                         {"items", {{"type", "string"}, {"minLength", 1}}},
                         {"maxItems", kMostBadWords}};
  document(schema,
           {"Words that the text does not get, as the tokens that spell them.", R"(["darkness"])"});
  return schema;
}

json::object logit_bias_schema(int32_t vocab_size) {
  json::object schema = {
      {"type", {"object", "null"}},
      {"propertyNames", {{"pattern", ids_pattern(vocab_size)}}},
      {"additionalProperties", {{"type", "number"}, {"minimum", -100}, {"maximum", 100}}}};
  document(schema, {"Added to the logits of tokens: an object of token ids and numbers.",
                    R"({"50": -100})"});
  return schema;
}

json::object stream_options_schema() {
  json::object schema = {{"type", {"object", "null"}},
                         {"properties", {{"include_usage", {{"type", {"boolean", "null"}}}}}}};
  document(schema, {"include_usage: a last chunk without choices has the usage.",
                    R"({"include_usage": true})"});
  return schema;
}

}  // namespace lorax::fields
