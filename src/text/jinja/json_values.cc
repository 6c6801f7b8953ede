#include "text/jinja/json_values.h"

#include <string_view>

#include "base/utf8.h"

namespace lorax::jinja {
namespace {

namespace json = boost::json;

Value from_text(Budget& budget, std::string_view text) {
  budget.allocate(text.size() + sizeof(Text));
  return replace_invalid_utf8(text);
}

Value from_array(Budget& budget, const json::array& array) {
  budget.allocate(array.size(), sizeof(Value));
  std::vector<Value> items;
  items.reserve(array.size());
  for (const json::value& item : array) items.push_back(from_json(budget, item));
  return Value::list(std::move(items));
}

Value from_object(Budget& budget, const json::object& object) {
  budget.allocate(object.size(), sizeof(Dict::Entry));
  auto dict = std::make_shared<Dict>();
  for (const auto& entry : object) {
    dict->set(budget, from_text(budget, entry.key()), from_json(budget, entry.value()));
  }
  return std::shared_ptr<const Dict>(std::move(dict));
}

}  // namespace

Value from_json(Budget& budget, const json::value& value) {
  const Budget::Level level(budget);
  switch (value.kind()) {
    case json::kind::null:
      return None();
    case json::kind::bool_:
      return value.get_bool();
    case json::kind::int64:
      return Integer{value.get_int64()};
    case json::kind::uint64:
      return Integer{value.get_uint64()};
    case json::kind::double_:
      return value.get_double();
    case json::kind::string:
      return from_text(budget, value.get_string());
    case json::kind::array:
      return from_array(budget, value.get_array());
    case json::kind::object:
      return from_object(budget, value.get_object());
  }
  return None();
}

}  // namespace lorax::jinja
