#include "server/unsupported_fields.h"

namespace lorax {

namespace json = boost::json;

bool is_text_format(const json::value& value) {
  if (!value.is_object()) return false;
  const json::object& format = value.get_object();
  const json::value* type = format.if_contains("type");
  const json::value* schema = format.if_contains("schema");
  return type != nullptr && *type == "text" && (schema == nullptr || schema->is_null());
}

bool is_empty_list(const json::value& value) {
  return value.is_array() && value.get_array().empty();
}

bool is_empty_text(const json::value& value) { return value == ""; }
bool is_nothing(const json::value&) { return false; }

}  // namespace lorax
