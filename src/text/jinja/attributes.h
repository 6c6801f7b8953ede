// object.name and object[key], by the rules of Jinja's sandbox; the methods of strings, dicts and
// lists.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "text/jinja/value.h"

namespace lorax::jinja {

// object.name: an attribute, else an item, else undefined. Throws TemplateError if the object
// itself is undefined.
Value get_attribute(Budget& budget, const Value& object, std::string_view name);
// object[key]: an item, else an attribute of that name, else undefined. Throws as above.
Value get_item(Budget& budget, const Value& object, const Value& key);

// Whether some object has a method of the name, be it one that the sandbox forbids.
bool is_method_name(std::string_view name);

// The path of the filters' "attribute": "a.b.0", a number, or none for the object itself.
class AttributePath {
 public:
  AttributePath() = default;
  // Throws TemplateError for another type.
  explicit AttributePath(const Value& path);
  // Where a part is undefined, `otherwise` stands in its place if it is given and not none.
  Value follow(Budget& budget, Value object, const Value& otherwise = None()) const;

 private:
  std::vector<Value> parts_;
};

// A method bound to its object, or nothing if its type has none of the name.
std::optional<Value> string_method(Budget& budget, const Value& object, std::string_view name);
std::optional<Value> dict_method(Budget& budget, const Value& object, std::string_view name);
std::optional<Value> sequence_method(Budget& budget, const Value& object, std::string_view name);
bool is_string_method(std::string_view name);
bool is_dict_method(std::string_view name);
bool is_sequence_method(std::string_view name);

}  // namespace lorax::jinja
