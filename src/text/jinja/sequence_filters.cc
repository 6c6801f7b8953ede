#include <algorithm>

#include "text/jinja/arguments.h"
#include "text/jinja/attributes.h"
#include "text/jinja/filters.h"
#include "text/jinja/operators.h"
#include "text/jinja/unicode.h"

namespace lorax::jinja {
namespace {

Value otherwise(Budget&, const Value& value, Args args) {
  const Arguments given("default", std::move(args), {"default_value", "boolean"});
  const bool missing = value.is_undefined() || (given.truth(1, false) && !value.truth());
  return missing ? given.value(0, "") : value;
}

Value length(Budget& budget, const Value& value, Args args) {
  const Arguments none("length", std::move(args), {});
  if (const Text* text = value.text()) budget.step(text->bytes.size() / 16);
  return static_cast<Integer>(length_or_raise(value));
}

Value list(Budget& budget, const Value& value, Args args) {
  const Arguments none("list", std::move(args), {});
  return Value::list(to_vector(budget, value));
}

Value first(Budget& budget, const Value& value, Args args) {
  const Arguments none("first", std::move(args), {});
  const auto item = Cursor(budget, value).next();
  return item ? *item : Value::undefined("No first item, sequence was empty.");
}

Value last(Budget& budget, const Value& value, Args args) {
  const Arguments none("last", std::move(args), {});
  if (value.iterator() != nullptr) raise("'generator' object is not reversible");
  if (const Text* text = value.text(); text != nullptr && !text->bytes.empty()) {
    return Value(last_character(text->bytes));
  }
  const std::vector<Value> items = to_vector(budget, value);
  return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
}

Value reverse(Budget& budget, const Value& value, Args args) {
  const Arguments none("reverse", std::move(args), {});
  std::vector<Value> items = to_vector(budget, value);
  std::ranges::reverse(items);
  if (const Text* text = value.text()) {
    std::string out;
    for (const Value& item : items) out += item.text()->bytes;
    return {std::move(out), text->safe};
  }
  // Python gives an iterator, but a list for what cannot be walked backward.
  if (value.iterator() != nullptr) return Value::list(std::move(items));
  const int nesting = value.nesting();
  return Value::iterator(
      budget,
      [items = std::move(items), at = size_t{0}]() mutable -> std::optional<Value> {
        return at < items.size() ? std::optional(items[at++]) : std::nullopt;
      },
      nesting);
}

Value items(Budget& budget, const Value& value, Args args) {
  const Arguments none("items", std::move(args), {});
  const Dict* dict = value.dict();
  if (dict == nullptr && !value.is_undefined()) raise("Can only get item pairs from a mapping.");
  return Value::iterator(
      budget,
      [value, at = size_t{0}]() mutable -> std::optional<Value> {
        const Dict* entries = value.dict();
        if (entries == nullptr || at >= entries->entries().size()) return std::nullopt;
        const Dict::Entry& entry = entries->entries()[at++];
        return Value::tuple({entry.first, entry.second});
      },
      value.nesting() + 1);
}

Value unique(Budget& budget, const Value& value, Args args) {
  const Arguments given("unique", std::move(args), {"case_sensitive", "attribute"});
  return Value::iterator(
      budget,
      [&budget, cursor = Cursor(budget, value), path = AttributePath(given.value(1, None())),
       case_sensitive = given.truth(0, false), seen = Dict()]() mutable -> std::optional<Value> {
        while (auto item = cursor.next()) {
          const Value key = sort_key(budget, path.follow(budget, *item), case_sensitive);
          if (seen.find(budget, key) != nullptr) continue;
          budget.allocate(sizeof(Dict::Entry));
          seen.set(budget, key, None());
          return item;
        }
        return std::nullopt;
      },
      value.nesting());
}

Value batch(Budget& budget, const Value& value, Args args) {
  const Arguments given("batch", std::move(args), {"linecount", "fill_with"}, 1);
  const Integer size = given.integer(0);
  return Value::iterator(
      budget,
      [&budget, size, fill = given.value(1, None()),
       cursor = Cursor(budget, value)]() mutable -> std::optional<Value> {
        std::vector<Value> row;
        while (static_cast<Integer>(row.size()) < std::max<Integer>(size, 1)) {
          auto item = cursor.next();
          if (!item) break;
          row.push_back(std::move(*item));
        }
        if (row.empty()) return std::nullopt;
        while (!fill.is_none() && static_cast<Integer>(row.size()) < size) {
          budget.allocate(sizeof(Value));
          row.push_back(fill);
        }
        return Value::list(std::move(row));
      },
      value.nesting() + 1);
}

Value slice_into(Budget& budget, const Value& value, Args args) {
  const Arguments given("slice", std::move(args), {"slices", "fill_with"}, 1);
  const Integer slices = given.integer(0);
  if (slices == 0) raise("integer division or modulo by zero");
  const std::vector<Value> all = to_vector(budget, value);
  const auto size = static_cast<Integer>(all.size());
  std::vector<Value> rows;
  Integer at = 0;
  for (Integer i = 0; i < slices; ++i) {
    const bool has_extra = i < size % slices;
    const Integer end = at + size / slices + (has_extra ? 1 : 0);
    std::vector<Value> row(all.begin() + static_cast<ptrdiff_t>(at),
                           all.begin() + static_cast<ptrdiff_t>(end));
    if (const Value fill = given.value(1, None()); !fill.is_none() && !has_extra) {
      row.push_back(fill);
    }
    budget.allocate(row.size() + 6, sizeof(Value));
    rows.push_back(Value::list(std::move(row)));
    at = end;
  }
  const int nesting = value.nesting() + 1;
  return Value::iterator(
      budget,
      [rows = std::move(rows), next = size_t{0}]() mutable -> std::optional<Value> {
        return next < rows.size() ? std::optional(rows[next++]) : std::nullopt;
      },
      nesting);
}

Value attribute(Budget& budget, const Value& value, Args args) {
  const Arguments given("attr", std::move(args), {"name"}, 1);
  // Unlike value.name this never takes an item.
  const bool has_items = value.dict() != nullptr;
  if (has_items && !is_dict_method(given.text(0))) {
    return Value::undefined(fmt::format("'dict object' has no attribute '{}'", given.text(0)));
  }
  return get_attribute(budget, value, given.text(0));
}

}  // namespace

const FilterTable& sequence_filters() {
  static const FilterTable kFilters = {
      {"attr", attribute},    {"batch", batch}, {"count", length},    {"d", otherwise},
      {"default", otherwise}, {"first", first}, {"items", items},     {"last", last},
      {"length", length},     {"list", list},   {"reverse", reverse}, {"slice", slice_into},
      {"unique", unique},
  };
  return kFilters;
}

}  // namespace lorax::jinja
