// Filters that compare items: sort, dictsort, min, max, groupby.
#include <algorithm>

#include "text/jinja/arguments.h"
#include "text/jinja/attributes.h"
#include "text/jinja/filters.h"
#include "text/jinja/operators.h"

namespace lorax::jinja {
namespace {

struct Keyed {
  Value key;
  Value item;
};

// Python's sorted(): stable, also when reversed.
std::vector<Value> sorted(Budget& budget, std::vector<Keyed> keyed, bool reverse) {
  // Merge sort by hand: std::stable_sort may run off its range if a comparison is not an order,
  // which NaN can bring about.
  std::vector<Keyed> merged(keyed.size());
  for (size_t width = 1; width < keyed.size(); width *= 2) {
    for (size_t begin = 0; begin < keyed.size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, keyed.size());
      const size_t end = std::min(begin + 2 * width, keyed.size());
      size_t left = begin;
      size_t right = middle;
      for (size_t out = begin; out < end; ++out) {
        const bool take_right =
            right < end &&
            (left == middle || (reverse ? less(budget, keyed[left].key, keyed[right].key)
                                        : less(budget, keyed[right].key, keyed[left].key)));
        merged[out] = std::move(keyed[take_right ? right++ : left++]);
      }
    }
    std::swap(keyed, merged);
  }
  std::vector<Value> items;
  for (Keyed& entry : keyed) items.push_back(std::move(entry.item));
  return items;
}

// The paths of "a,b.c".
std::vector<AttributePath> split_paths(const Value& attribute) {
  const Text* text = attribute.text();
  if (text == nullptr) return {AttributePath(attribute)};
  std::vector<AttributePath> paths;
  std::string_view rest = text->bytes;
  for (;;) {
    const size_t comma = std::min(rest.find(','), rest.size());
    paths.emplace_back(Value(rest.substr(0, comma)));
    if (comma == rest.size()) return paths;
    rest.remove_prefix(comma + 1);
  }
}

Value sort(Budget& budget, const Value& value, Args args) {
  const Arguments given("sort", std::move(args), {"reverse", "case_sensitive", "attribute"});
  const std::vector<AttributePath> paths = split_paths(given.value(2, None()));
  std::vector<Keyed> keyed;
  for (Value& item : to_vector(budget, value)) {
    std::vector<Value> keys;
    for (const AttributePath& path : paths) {
      keys.push_back(sort_key(budget, path.follow(budget, item), given.truth(1, false)));
    }
    keyed.push_back({Value::list(std::move(keys)), std::move(item)});
  }
  return Value::list(sorted(budget, std::move(keyed), given.truth(0, false)));
}

Value dictsort(Budget& budget, const Value& value, Args args) {
  const Arguments given("dictsort", std::move(args), {"case_sensitive", "by", "reverse"});
  const std::string_view by = given.text(1, "key");
  if (by != "key" && by != "value") raise("You can only sort by either \"key\" or \"value\"");
  if (value.is_undefined()) raise("{}", value.undefined_message());
  if (value.dict() == nullptr) raise("'{}' object has no attribute 'items'", value.type_name());
  std::vector<Keyed> keyed;
  for (const Dict::Entry& entry : value.dict()->entries()) {
    budget.allocate(4 * sizeof(Value));
    keyed.push_back(
        {sort_key(budget, by == "key" ? entry.first : entry.second, given.truth(0, false)),
         Value::tuple({entry.first, entry.second})});
  }
  return Value::list(sorted(budget, std::move(keyed), given.truth(2, false)));
}

template <bool kMax>
Value extreme(Budget& budget, const Value& value, Args args) {
  const Arguments given(kMax ? "max" : "min", std::move(args), {"case_sensitive", "attribute"});
  const AttributePath path(given.value(1, None()));
  std::optional<Keyed> best;
  Cursor cursor(budget, value);
  while (const auto item = cursor.next()) {
    Keyed candidate{sort_key(budget, path.follow(budget, *item), given.truth(0, false)), *item};
    const bool better = !best || (kMax ? less(budget, best->key, candidate.key)
                                       : less(budget, candidate.key, best->key));
    if (better) best = std::move(candidate);
  }
  return best ? best->item : Value::undefined("No aggregated item, sequence was empty.");
}

Value groupby(Budget& budget, const Value& value, Args args) {
  const Arguments given("groupby", std::move(args), {"attribute", "default", "case_sensitive"}, 1);
  const AttributePath path(given.value(0));
  const bool case_sensitive = given.truth(2, false);
  const auto plain_key = [&](const Value& item) {
    return path.follow(budget, item, given.value(1, None()));
  };
  std::vector<Keyed> keyed;
  for (Value& item : to_vector(budget, value)) {
    Value key = sort_key(budget, plain_key(item), case_sensitive);
    keyed.push_back({std::move(key), std::move(item)});
  }
  std::vector<Value> groups;
  std::vector<Value> group;
  const auto close = [&] {
    if (group.empty()) return;
    Value key = plain_key(group.front());
    groups.push_back(Value::tuple({std::move(key), Value::list(std::move(group))}));
    group.clear();
  };
  for (Value& item : sorted(budget, std::move(keyed), false)) {
    const auto key = [&](const Value& of) {
      return sort_key(budget, plain_key(of), case_sensitive);
    };
    if (!group.empty() && !equal(budget, key(group.front()), key(item))) close();
    group.push_back(std::move(item));
  }
  close();
  return Value::list(std::move(groups));
}

}  // namespace

const FilterTable& order_filters() {
  static const FilterTable kFilters = {
      {"dictsort", dictsort},  {"groupby", groupby}, {"max", extreme<true>},
      {"min", extreme<false>}, {"sort", sort},
  };
  return kFilters;
}

}  // namespace lorax::jinja
