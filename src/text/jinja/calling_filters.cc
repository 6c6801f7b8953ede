// Filters that apply another filter or a test, given by name, to each item.
#include <fmt/format.h>

#include <algorithm>

#include "text/jinja/arguments.h"
#include "text/jinja/attributes.h"
#include "text/jinja/filters.h"
#include "text/jinja/operators.h"
#include "text/jinja/tests.h"

namespace lorax::jinja {
namespace {

// Takes the first positional argument out of `args`.
Value take_first(Args& args) {
  Value first = std::move(args.positional.front());
  args.positional.erase(args.positional.begin());
  return first;
}

int nesting_of(const Args& args) {
  int nesting = 0;
  for (const Value& value : args.positional) nesting = std::max(nesting, value.nesting());
  for (const auto& keyword : args.keyword) nesting = std::max(nesting, keyword.second.nesting());
  return nesting;
}

std::function<Value(Value)> mapping(Budget& budget, Args args) {
  if (args.positional.empty()) {
    const bool by_attribute = std::ranges::any_of(
        args.keyword, [](const auto& keyword) { return keyword.first == "attribute"; });
    if (!by_attribute) raise("map requires a filter argument");
    const Arguments given("map", std::move(args), {"attribute", "default"});
    return [&budget, path = AttributePath(given.value(0)), otherwise = given.value(1, None())](
               Value item) { return path.follow(budget, std::move(item), otherwise); };
  }
  const Value name = take_first(args);
  const Filter filter = name.text() == nullptr ? nullptr : find_filter(name.text()->bytes);
  if (filter == nullptr) {
    raise("No filter named '{}'.", name.text() == nullptr ? "?" : name.text()->bytes);
  }
  return [&budget, filter, args = std::move(args)](const Value& item) {
    return filter(budget, item, args);
  };
}

Value map(Budget& budget, const Value& value, Args args) {
  const int nesting = std::max(value.nesting(), nesting_of(args));
  return Value::iterator(
      budget,
      [&budget, value, args = std::move(args), cursor = std::optional<Cursor>(),
       apply = std::function<Value(Value)>()]() mutable -> std::optional<Value> {
        if (!cursor) {
          // Not before the first item is asked for, as Python's generator.
          if (!value.truth()) return std::nullopt;
          apply = mapping(budget, std::move(args));
          cursor.emplace(budget, value);
        }
        auto item = cursor->next();
        return item ? std::optional(apply(std::move(*item))) : std::nullopt;
      },
      nesting);
}

// Whether an item is wanted: by a test and its arguments, or by its truth.
std::function<bool(const Value&)> condition(Budget& budget, Args args, bool by_attribute) {
  AttributePath path;
  if (by_attribute) {
    if (args.positional.empty()) raise("Missing parameter for attribute name");
    path = AttributePath(take_first(args));
  }
  if (args.positional.empty()) {
    return [&budget, path](const Value& item) { return path.follow(budget, item).truth(); };
  }
  const Value name = take_first(args);
  const Test test = name.text() == nullptr ? nullptr : find_test(name.text()->bytes);
  if (test == nullptr) {
    raise("No test named '{}'.", name.text() == nullptr ? "?" : name.text()->bytes);
  }
  return [&budget, path, test, args = std::move(args)](const Value& item) {
    return test(budget, path.follow(budget, item), args);
  };
}

template <bool kWanted, bool kByAttribute>
Value choose(Budget& budget, const Value& value, Args args) {
  const int nesting = std::max(value.nesting(), nesting_of(args));
  return Value::iterator(
      budget,
      [&budget, value, args = std::move(args), cursor = std::optional<Cursor>(),
       wants = std::function<bool(const Value&)>()]() mutable -> std::optional<Value> {
        if (!cursor) {
          if (!value.truth()) return std::nullopt;
          wants = condition(budget, std::move(args), kByAttribute);
          cursor.emplace(budget, value);
        }
        while (auto item = cursor->next()) {
          if (wants(*item) == kWanted) return item;
        }
        return std::nullopt;
      },
      nesting);
}

}  // namespace

const FilterTable& calling_filters() {
  static const FilterTable kFilters = {
      {"map", map},
      {"reject", choose<false, false>},
      {"rejectattr", choose<false, true>},
      {"select", choose<true, false>},
      {"selectattr", choose<true, true>},
  };
  return kFilters;
}

}  // namespace lorax::jinja
