// The fields of a request body, each declared once: name, type, default, range, description and an
// example. From this come the parser, the checks of ranges and the schemas of the OpenAPI document.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <boost/json/object.hpp>

#include "server/api/api_error.h"

namespace lorax {

// Bounds of a number; those that are set hold.
struct NumberRange {
  std::optional<double> above = std::nullopt;
  std::optional<double> at_least = std::nullopt;
  std::optional<double> below = std::nullopt;
  std::optional<double> at_most = std::nullopt;

  bool holds(double number) const;
  // "must be > 0 and <= 1"
  std::string text() const;
};

// What documents a field. `example` is JSON; "" for none.
struct FieldDoc {
  std::string description;
  std::string example = {};
};

// One field of a body that is read into a Request. Null is the same as no field. What a body holds
// beside the fields of its table: see foreign_fields.h.
template <typename Request>
struct Field {
  std::string name;
  bool is_required = false;
  boost::json::object schema;  // JSON Schema 2020-12
  // Takes the value over; throws ApiError for a wrong type.
  std::function<void(const boost::json::value& value, Request& request)> read;
  // Throws ApiError if what was read is out of range; may be empty.
  std::function<void(const Request& request)> check;
};

template <typename Request>
using FieldTable = std::vector<Field<Request>>;

namespace fields {

// Values as what they must be; throw ApiError that names the field.
void read(const boost::json::value& value, std::string_view name, bool& out);
void read(const boost::json::value& value, std::string_view name, double& out);
void read(const boost::json::value& value, std::string_view name, int64_t& out);
void read(const boost::json::value& value, std::string_view name, uint64_t& out);
void read(const boost::json::value& value, std::string_view name, std::string& out);
void read(const boost::json::value& value, std::string_view name, std::vector<std::string>& out);
template <typename T>
void read(const boost::json::value& value, std::string_view name, std::optional<T>& out) {
  read(value, name, out.emplace());
}
// "`name` must be an integer; given \"x\"".
[[noreturn]] void wrong_type(const boost::json::value& value, std::string_view name,
                             std::string_view expected);
// The value, shortened for a message.
std::string shown(const boost::json::value& value);

// {"type": ...} of what read() takes.
boost::json::object schema_of(const bool&);
boost::json::object schema_of(const double&);
boost::json::object schema_of(const int64_t&);
boost::json::object schema_of(const uint64_t&);
boost::json::object schema_of(const std::string&);
boost::json::object schema_of(const std::vector<std::string>&);
template <typename T>
boost::json::object schema_of(const std::optional<T>&) {
  return schema_of(T{});
}

boost::json::value default_of(const bool& value);
boost::json::value default_of(const std::string& value);
boost::json::value default_of(const double& value);
boost::json::value default_of(const int64_t& value);
boost::json::value default_of(const uint64_t& value);
boost::json::value default_of(const std::vector<std::string>& value);
template <typename T>
boost::json::value default_of(const std::optional<T>& value) {
  return value ? default_of(*value) : boost::json::value();
}

// A seed, from -2^63 to 2^64 - 1: those below 0 count as in two's complement.
struct Seed {
  uint64_t value = 0;
};
void read(const boost::json::value& value, std::string_view name, Seed& out);
boost::json::object schema_of(const Seed&);
boost::json::value default_of(const Seed& seed);

// Adds description, example and bounds to a schema.
void document(boost::json::object& schema, const FieldDoc& doc, const NumberRange& range = {});
void check_range(std::string_view name, double number, const NumberRange& range);

inline void check(std::string_view name, double number, const NumberRange& range) {
  check_range(name, number, range);
}
inline void check(std::string_view name, int64_t number, const NumberRange& range) {
  check_range(name, static_cast<double>(number), range);
}
inline void check(std::string_view name, uint64_t number, const NumberRange& range) {
  check_range(name, static_cast<double>(number), range);
}
template <typename T>
void check(std::string_view name, const std::optional<T>& number, const NumberRange& range) {
  if (number) check(name, *number, range);
}

}  // namespace fields

// A field that goes into a member of the request. Its default is the member's own.
template <typename Request, typename Owner, typename T>
Field<Request> field(std::string name, T Owner::*member, FieldDoc doc) {
  Field<Request> field;
  field.name = name;
  field.schema = fields::schema_of(T{});
  field.schema["type"] = {field.schema["type"], "null"};
  field.schema["default"] = fields::default_of(Request{}.*member);
  fields::document(field.schema, doc);
  field.read = [name, member](const boost::json::value& value, Request& request) {
    fields::read(value, name, request.*member);
  };
  return field;
}

// The same for a number within bounds.
template <typename Request, typename Owner, typename T>
Field<Request> field(const std::string& name, T Owner::*member, const NumberRange& range,
                     const FieldDoc& doc) {
  Field<Request> result = field<Request>(name, member, doc);
  fields::document(result.schema, {}, range);
  result.check = [name, member, range](const Request& request) {
    fields::check(name, request.*member, range);
  };
  return result;
}

template <typename Request>
Field<Request> required(Field<Request> field) {
  field.is_required = true;
  field.schema["type"] = boost::json::value(field.schema["type"].at(0));
  field.schema.erase("default");
  return field;
}

template <typename Request>
bool has_field(const FieldTable<Request>& table, std::string_view name) {
  return std::ranges::any_of(table,
                             [&](const Field<Request>& field) { return field.name == name; });
}

// Reads all fields of the table from the body, in the table's order.
template <typename Request>
void read_fields(const FieldTable<Request>& table, const boost::json::object& body,
                 Request& request) {
  for (const Field<Request>& field : table) {
    const boost::json::value* value = body.if_contains(field.name);
    if (value != nullptr && !value->is_null()) {
      field.read(*value, request);
    } else if (field.is_required) {
      refuse(field.name, "`" + field.name + "` is missing");
    }
  }
}

template <typename Request>
void check_fields(const FieldTable<Request>& table, const Request& request) {
  for (const Field<Request>& field : table) {
    if (field.check) field.check(request);
  }
}

// {"type": "object", "properties": ..., "required": ...}
template <typename Request>
boost::json::object schema_of(const FieldTable<Request>& table) {
  boost::json::object properties;
  boost::json::array required;
  for (const Field<Request>& field : table) {
    properties[field.name] = field.schema;
    if (field.is_required) required.emplace_back(field.name);
  }
  boost::json::object schema = {{"type", "object"}, {"properties", std::move(properties)}};
  if (!required.empty()) schema["required"] = std::move(required);
  return schema;
}

// The body of a request as a JSON object. Throws ApiError for a text that is none: invalid UTF-8,
// lone surrogates, keys that stand twice and deep nesting are refused, too.
boost::json::object parse_body(std::string_view body);

}  // namespace lorax
