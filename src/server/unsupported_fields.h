// Fields of the APIs that this server knows and does not implement: a request that uses one is
// refused, since its answer would not be what it asks for.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/request_fields.h"

namespace lorax {

// A field that only null, `harmless` values or the absence of it are taken for.
template <typename Request>
Field<Request> unsupported(const std::string& name, boost::json::object schema, FieldDoc doc,
                           std::function<bool(const boost::json::value& value)> is_harmless) {
  Field<Request> field;
  field.name = name;
  field.schema = std::move(schema);
  doc.description += " Not supported by this server.";
  fields::document(field.schema, doc);
  field.read = [name, is_harmless](const boost::json::value& value, Request&) {
    if (is_harmless(value)) return;
    refuse(name, "`" + name + "` is not supported by this server; leave it out");
  };
  return field;
}

// {"type": "text"} is what happens anyway.
bool is_text_format(const boost::json::value& value);
bool is_empty_list(const boost::json::value& value);
bool is_empty_text(const boost::json::value& value);
// For fields whose only harmless value is null.
bool is_nothing(const boost::json::value& value);

template <typename Request>
Field<Request> response_format_field() {
  return unsupported<Request>(
      "response_format",
      {{"type", {"object", "null"}}, {"properties", {{"type", {{"type", "string"}}}}}},
      {"A form for the answer; other than {\"type\": \"text\"}:", R"({"type": "text"})"},
      is_text_format);
}

}  // namespace lorax
