// Reading the fields of the tokenizer's JSON files, with errors that say where they stand.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <boost/json/memory_resource.hpp>
#include <boost/json/value.hpp>

#include "text/added_tokens.h"

namespace lorax {

// Parses a whole JSON text into memory of `storage`. Throws Error that begins with `origin`.
boost::json::value parse_tokenizer_json(std::string_view bytes, std::string_view origin,
                                        boost::json::storage_ptr storage = {});

// A JSON value and the place where it stands, "file: model.merges[3]", which all errors begin with.
class JsonField {
 public:
  JsonField(const boost::json::value& value, std::string where)
      : value_(&value), where_(std::move(where)) {}

  const std::string& where() const { return where_; }
  bool is_null() const { return value_->is_null(); }
  bool is_string() const { return value_->is_string(); }
  bool is_object() const { return value_->is_object(); }
  bool is_array() const { return value_->is_array(); }

  // The value as what it must be; throws Error otherwise.
  const boost::json::object& object() const;
  const boost::json::array& array() const;
  std::string_view string() const;
  bool boolean() const;
  double number() const;
  int32_t id() const;  // a number that can be a token's

  // A field of this object: null if it is not there; throws Error if this is no object.
  JsonField operator[](std::string_view key) const;
  JsonField operator[](size_t index) const;
  // The field as a boolean, false where it is missing or null.
  bool flag(std::string_view key) const;

 private:
  const boost::json::value* value_;
  std::string where_;
};

// An object of "added_tokens". Throws Error for a token that this program cannot look for.
AddedToken read_added_token(const JsonField& field, int32_t id);

}  // namespace lorax
