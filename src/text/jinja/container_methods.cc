// The methods of dicts and lists.
#include <algorithm>
#include <array>

#include "text/jinja/arguments.h"
#include "text/jinja/attributes.h"
#include "text/jinja/operators.h"

namespace lorax::jinja {
namespace {

// What the immutable sandbox hides: calling it raises.
constexpr std::array<std::string_view, 5> kDictMutators = {"clear", "pop", "popitem", "setdefault",
                                                           "update"};
constexpr std::array<std::string_view, 8> kListMutators = {"append", "clear",   "extend", "insert",
                                                           "pop",    "reverse", "remove", "sort"};
constexpr std::array<std::string_view, 5> kDictMethods = {"copy", "get", "items", "keys", "values"};
constexpr std::array<std::string_view, 2> kSequenceMethods = {"count", "index"};

template <typename Names>
bool is_one_of(const Names& names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

Value forbidden(const Value& object, std::string_view name) {
  return Value::undefined(
      fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, object.type_name()));
}

Value dict_view(Budget& budget, const Dict& dict, Sequence::Type type) {
  std::vector<Value> items;
  budget.allocate(dict.entries().size(), 2 * sizeof(Value));
  for (const Dict::Entry& entry : dict.entries()) {
    if (type == Sequence::Type::kKeys) items.push_back(entry.first);
    if (type == Sequence::Type::kValues) items.push_back(entry.second);
    if (type == Sequence::Type::kItems) items.push_back(Value::tuple({entry.first, entry.second}));
  }
  return Value::list(std::move(items), type);
}

Value call_dict(Budget& budget, const Value& object, const std::string& name, Args args) {
  const Dict& dict = *object.dict();
  if (name == "get") {
    if (!args.keyword.empty()) raise("dict.get() takes no keyword arguments");
    const Arguments given("get", std::move(args), {"key", "default"}, 1);
    const Value* found = dict.find(budget, given.value(0));
    return found == nullptr ? given.value(1, None()) : *found;
  }
  const Arguments none(name, std::move(args), {});
  if (name == "items") return dict_view(budget, dict, Sequence::Type::kItems);
  if (name == "keys") return dict_view(budget, dict, Sequence::Type::kKeys);
  if (name == "values") return dict_view(budget, dict, Sequence::Type::kValues);
  budget.allocate(dict.entries().size(), sizeof(Dict::Entry));
  return std::make_shared<const Dict>(dict);
}

Value call_sequence(Budget& budget, const Value& object, const std::string& name, Args args) {
  const std::vector<Value>& items = object.sequence()->items;
  if (name == "copy") {
    const Arguments none(name, std::move(args), {});
    budget.allocate(items.size(), sizeof(Value));
    return Value::list(items);
  }
  const Arguments given(name, std::move(args), {"value", "start", "stop"}, 1);
  Integer count = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!equal(budget, items[i], given.value(0))) continue;
    if (name == "index") return static_cast<Integer>(i);
    ++count;
  }
  if (name == "index") raise("the value is not in the {}", object.type_name());
  return count;
}

}  // namespace

bool is_dict_method(std::string_view name) {
  return is_one_of(kDictMethods, name) || is_one_of(kDictMutators, name);
}

bool is_sequence_method(std::string_view name) {
  return is_one_of(kSequenceMethods, name) || is_one_of(kListMutators, name) || name == "copy";
}

std::optional<Value> dict_method(Budget& budget, const Value& object, std::string_view name) {
  if (is_one_of(kDictMutators, name)) return forbidden(object, name);
  if (!is_one_of(kDictMethods, name)) return std::nullopt;
  return Value::function(
      std::string(name),
      [&budget, object, method = std::string(name)](Args args) {
        return call_dict(budget, object, method, std::move(args));
      },
      object.nesting());
}

std::optional<Value> sequence_method(Budget& budget, const Value& object, std::string_view name) {
  const Sequence& sequence = *object.sequence();
  const bool is_list = sequence.type == Sequence::Type::kList;
  if (sequence.type == Sequence::Type::kRange) {
    if (name == "start") return sequence.start;
    if (name == "stop") return sequence.stop;
    if (name == "step") return sequence.step;
  }
  if (is_list && is_one_of(kListMutators, name)) return forbidden(object, name);
  const bool known =
      sequence.is_indexed() && (is_one_of(kSequenceMethods, name) || (is_list && name == "copy"));
  if (!known) return std::nullopt;
  return Value::function(
      std::string(name),
      [&budget, object, method = std::string(name)](Args args) {
        return call_sequence(budget, object, method, std::move(args));
      },
      object.nesting());
}

}  // namespace lorax::jinja
