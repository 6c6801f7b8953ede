#include "text/jinja/attributes.h"

#include <algorithm>
#include <charconv>

#include "text/jinja/loop.h"
#include "text/jinja/python_text.h"
#include "text/jinja/unicode.h"

namespace lorax::jinja {
namespace {

void check_defined(const Value& object) {
  if (object.is_undefined()) raise("{}", object.undefined_message());
}

Value missing(Budget& budget, const Value& object, const Value& key) {
  const bool is_name = key.text() != nullptr;
  const std::string type = std::string(object.is_none() ? "None" : object.type_name());
  return Value::undefined(
      (is_name ? "'" + type + " object' has no attribute " : type + " object has no element ") +
      (key.nesting() == 0 && key.function() == nullptr && key.loop() == nullptr ? repr(budget, key)
                                                                                : "of that key"));
}

std::optional<Value> number_attribute(const Value& object, std::string_view name) {
  if (name == "real") return plus(object);
  if (name == "imag") return object.real() == nullptr ? Value(Integer{0}) : Value(0.0);
  return std::nullopt;
}

std::optional<Value> find_attribute(Budget& budget, const Value& object, std::string_view name) {
  if (object.text() != nullptr) return string_method(budget, object, name);
  if (object.dict() != nullptr) return dict_method(budget, object, name);
  if (object.is_number()) return number_attribute(object, name);
  if (object.sequence() != nullptr) return sequence_method(budget, object, name);
  if (Namespace* space = object.space()) {
    const Value* found = space->find(name);
    return found == nullptr ? std::nullopt : std::optional(*found);
  }
  if (Loop* loop = object.loop()) return loop->attribute(name);
  return std::nullopt;
}

std::optional<Value> find_item(Budget& budget, const Value& object, const Value& key) {
  if (const Dict* dict = object.dict()) {
    const bool hashable = key.dict() == nullptr && (key.sequence() == nullptr ||
                                                    key.sequence()->type == Sequence::Type::kTuple);
    const Value* found = hashable ? dict->find(budget, key) : nullptr;
    return found == nullptr ? std::nullopt : std::optional(*found);
  }
  const auto index = key.integer();
  const Sequence* sequence = object.sequence();
  const bool indexed = object.text() != nullptr || (sequence != nullptr && sequence->is_indexed());
  if (!index || !indexed) return std::nullopt;
  const auto length = static_cast<Integer>(length_or_raise(object));
  const Integer at = *index < 0 ? *index + length : *index;
  if (at < 0 || at >= length) return std::nullopt;
  if (sequence != nullptr) return sequence->items[static_cast<size_t>(at)];
  const std::string& bytes = object.text()->bytes;
  budget.step(bytes.size() / 16);
  return Value(character_at(bytes, byte_of_character(bytes, static_cast<size_t>(at))));
}

}  // namespace

Value get_attribute(Budget& budget, const Value& object, std::string_view name) {
  check_defined(object);
  if (auto found = find_attribute(budget, object, name)) return *found;
  if (auto found = find_item(budget, object, Value(name))) return *found;
  return missing(budget, object, Value(name));
}

Value get_item(Budget& budget, const Value& object, const Value& key) {
  check_defined(object);
  if (auto found = find_item(budget, object, key)) return *found;
  if (const Text* name = key.text()) {
    if (auto found = find_attribute(budget, object, name->bytes)) return *found;
  }
  return missing(budget, object, key);
}

bool is_method_name(std::string_view name) {
  return is_string_method(name) || is_dict_method(name) || is_sequence_method(name) ||
         name == "cycle" || name == "changed";
}

AttributePath::AttributePath(const Value& path) {
  if (path.is_none()) return;
  const Text* text = path.text();
  if (text == nullptr) {
    parts_.push_back(path);
    return;
  }
  std::string_view rest = text->bytes;
  for (;;) {
    const size_t dot = std::min(rest.find('.'), rest.size());
    const std::string_view part = rest.substr(0, dot);
    int64_t index = 0;
    const auto result = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index = !part.empty() && part[0] != '-' && result.ec == std::errc() &&
                          result.ptr == part.data() + part.size();
    parts_.push_back(is_index ? Value(Integer{index}) : Value(part));
    if (dot == rest.size()) return;
    rest.remove_prefix(dot + 1);
  }
}

Value AttributePath::follow(Budget& budget, Value object, const Value& otherwise) const {
  for (const Value& part : parts_) {
    object = get_item(budget, object, part);
    if (object.is_undefined() && !otherwise.is_none()) object = otherwise;
  }
  return object;
}

}  // namespace lorax::jinja
