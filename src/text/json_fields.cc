#include "text/json_fields.h"

#include <fmt/format.h>

#include <boost/json/parse.hpp>

#include "base/error.h"
#include "base/quote_token.h"
#include "text/vocabulary.h"

namespace lorax {

namespace json = boost::json;

json::value parse_tokenizer_json(std::string_view bytes, std::string_view origin,
                                 json::storage_ptr storage) {
  json::error_code error;
  json::value value = json::parse(bytes, error, std::move(storage));
  if (error) fail("{}: not valid JSON: {}", origin, error.message());
  return value;
}

const json::object& JsonField::object() const {
  if (!value_->is_object()) fail("{}: must be an object", where_);
  return value_->get_object();
}

const json::array& JsonField::array() const {
  if (!value_->is_array()) fail("{}: must be an array", where_);
  return value_->get_array();
}

std::string_view JsonField::string() const {
  if (!value_->is_string()) fail("{}: must be a string", where_);
  return value_->get_string();
}

bool JsonField::boolean() const {
  if (!value_->is_bool()) fail("{}: must be true or false", where_);
  return value_->get_bool();
}

double JsonField::number() const {
  if (!value_->is_number()) fail("{}: must be a number", where_);
  return value_->to_number<double>();
}

int32_t JsonField::id() const {
  const int64_t* number = value_->if_int64();
  if (number == nullptr || *number < 0 || *number >= Vocabulary::kMaxSize) {
    fail("{}: must be a number from 0 to {}", where_, Vocabulary::kMaxSize - 1);
  }
  return static_cast<int32_t>(*number);
}

JsonField JsonField::operator[](std::string_view key) const {
  static const json::value kNull;
  const json::value* field = object().if_contains(key);
  const char* separator = where_.ends_with(':') ? " " : ".";
  return {field == nullptr ? kNull : *field, fmt::format("{}{}{}", where_, separator, key)};
}

JsonField JsonField::operator[](size_t index) const {
  return {array().at(index), fmt::format("{}[{}]", where_, index)};
}

bool JsonField::flag(std::string_view key) const {
  const JsonField field = (*this)[key];
  return !field.is_null() && field.boolean();
}

AddedToken read_added_token(const JsonField& field, int32_t id) {
  AddedToken token;
  token.id = id;
  token.content = field["content"].string();
  token.special = field.flag("special");
  token.normalized = field.flag("normalized");
  token.lstrip = field.flag("lstrip");
  token.rstrip = field.flag("rstrip");
  if (token.content.empty() || token.content.size() > AddedToken::kMaxBytes) {
    fail("{}: an added token must have 1 to {} bytes", field.where(), AddedToken::kMaxBytes);
  }
  if (field.flag("single_word")) {
    fail("{}: the added token {} has single_word, which is not supported; set it to false",
         field.where(), quote_token(token.content));
  }
  return token;
}

}  // namespace lorax
