#include "server/api/request_fields.h"

#include <algorithm>
#include <cmath>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "base/error.h"
#include "formats/json_file.h"
#include "formats/printable.h"

namespace lorax {

namespace json = boost::json;

bool NumberRange::holds(double number) const {
  return (!above || number > *above) && (!at_least || number >= *at_least) &&
         (!below || number < *below) && (!at_most || number <= *at_most);
}

std::string NumberRange::text() const {
  if (above == 0.0 && !below && !at_most) return "must be strictly positive";
  std::string text = "must be ";
  bool first = true;
  const auto add = [&](std::string_view sign, std::optional<double> bound) {
    if (!bound) return;
    text += fmt::format("{}{} {}", first ? "" : " and ", sign, *bound);
    first = false;
  };
  add(">", above);
  add(">=", at_least);
  add("<", below);
  add("<=", at_most);
  return text;
}

namespace fields {

std::string shown(const json::value& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  return printable(json::serialize(value));
}

void wrong_type(const json::value& value, std::string_view name, std::string_view expected) {
  refuse(name, fmt::format("`{}` must be {}; given {}", name, expected, shown(value)));
}

void read(const json::value& value, std::string_view name, bool& out) {
  if (!value.is_bool()) wrong_type(value, name, "true or false");
  out = value.get_bool();
}

void read(const json::value& value, std::string_view name, double& out) {
  if (!value.is_number()) wrong_type(value, name, "a number");
  out = value.to_number<double>();
  // Sampling computes in float32.
  if (!std::isfinite(static_cast<float>(out))) {
    refuse(name, fmt::format("`{}` is too large a number", name));
  }
}

void read(const json::value& value, std::string_view name, int64_t& out) {
  if (value.is_int64()) {
    out = value.get_int64();
    return;
  }
  if (value.is_uint64() || value.is_double()) {
    const double number = value.to_number<double>();
    if (std::abs(number) >= 0x1p63) refuse(name, fmt::format("`{}` is too large a number", name));
  }
  wrong_type(value, name, "an integer");
}

void read(const json::value& value, std::string_view name, uint64_t& out) {
  if (value.is_uint64()) {
    out = value.get_uint64();
  } else if (value.is_int64() && value.get_int64() >= 0) {
    out = static_cast<uint64_t>(value.get_int64());
  } else {
    wrong_type(value, name, "an integer from 0 to 18446744073709551615");
  }
}

void read(const json::value& value, std::string_view name, std::string& out) {
  if (!value.is_string()) wrong_type(value, name, "a string");
  out = std::string(value.get_string());
}

void read(const json::value& value, std::string_view name, std::vector<std::string>& out) {
  if (!value.is_array()) wrong_type(value, name, "a list of strings");
  for (const json::value& element : value.get_array()) {
    if (!element.is_string()) wrong_type(element, name, "a list of strings");
    out.emplace_back(element.get_string());
  }
}

void read(const json::value& value, std::string_view name, Seed& out) {
  if (value.is_int64()) {
    out.value = static_cast<uint64_t>(value.get_int64());
  } else if (value.is_uint64()) {
    out.value = value.get_uint64();
  } else {
    wrong_type(value, name, "an integer from -9223372036854775808 to 18446744073709551615");
  }
}

json::object schema_of(const Seed&) {
  return {{"type", "integer"}, {"minimum", INT64_MIN}, {"maximum", UINT64_MAX}};
}
json::value default_of(const Seed& seed) { return seed.value; }

json::object schema_of(const bool&) { return {{"type", "boolean"}}; }
json::object schema_of(const double&) { return {{"type", "number"}, {"format", "float"}}; }
json::object schema_of(const int64_t&) { return {{"type", "integer"}, {"format", "int64"}}; }
json::object schema_of(const uint64_t&) {
  return {{"type", "integer"}, {"minimum", 0}, {"maximum", UINT64_MAX}};
}
json::object schema_of(const std::string&) { return {{"type", "string"}}; }
json::object schema_of(const std::vector<std::string>&) {
  return {{"type", "array"}, {"items", {{"type", "string"}}}};
}

json::value default_of(const bool& value) { return value; }
json::value default_of(const std::string& value) { return json::value(value); }
json::value default_of(const double& value) { return value; }
json::value default_of(const int64_t& value) { return value; }
json::value default_of(const uint64_t& value) { return value; }
json::value default_of(const std::vector<std::string>& value) {
  return json::array(value.begin(), value.end());
}

void document(json::object& schema, const FieldDoc& doc, const NumberRange& range) {
  if (!doc.description.empty()) schema["description"] = doc.description;
  if (!doc.example.empty()) schema["examples"] = json::array{json::parse(doc.example)};
  const auto add = [&](const char* keyword, std::optional<double> bound) {
    if (!bound) return;
    const auto whole = static_cast<int64_t>(*bound);
    schema[keyword] =
        *bound == static_cast<double>(whole) ? json::value(whole) : json::value(*bound);
  };
  add("exclusiveMinimum", range.above);
  add("minimum", range.at_least);
  add("exclusiveMaximum", range.below);
  add("maximum", range.at_most);
}

void check_range(std::string_view name, double number, const NumberRange& range) {
  if (range.holds(number)) return;
  refuse(name, fmt::format("`{}` {}. Given: {}", name, range.text(), number));
}

}  // namespace fields

json::object parse_body(std::string_view text) {
  json::value body;
  try {
    body = parse_json(text, "the request body");
  } catch (const Error& error) {
    throw ApiError(ErrorKind::kBadJson, error.what());
  }
  if (!body.is_object()) {
    throw ApiError(ErrorKind::kValidation, fmt::format("the request body must be a JSON object; "
                                                       "given {}",
                                                       fields::shown(body)));
  }
  return std::move(body.get_object());
}

}  // namespace lorax
