#include "server/openai_fields.h"

#include <fmt/format.h>

#include <charconv>

#include "formats/printable.h"

namespace lorax::fields {

namespace json = boost::json;

namespace {

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

void read_stop(const json::value& value, std::vector<std::string>& stop) {
  if (value.is_string()) {
    stop.emplace_back(value.get_string());
  } else if (value.is_array()) {
    read(value, "stop", stop);
  } else {
    wrong_type(value, "stop", "a string or a list of strings");
  }
}

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

void read_stream_options(const json::value& value, bool& include_usage) {
  if (!value.is_object()) wrong_type(value, "stream_options", "an object");
  const json::value* usage = value.get_object().if_contains("include_usage");
  if (usage != nullptr && !usage->is_null()) read(*usage, "include_usage", include_usage);
}

json::object stop_schema(int64_t max_count) {
  json::object schema = {{"anyOf",
                          {{{"type", "string"}, {"minLength", 1}},
                           {{"type", "array"},
                            {"items", {{"type", "string"}, {"minLength", 1}}},
                            {"maxItems", max_count}},
                           {{"type", "null"}}}}};
  document(schema, {"Texts that end the generation where they first appear; they are cut off.",
                    R"(["\n"])"});
  return schema;
}

json::object logit_bias_schema() {
  json::object schema = {
      {"type", {"object", "null"}},
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
