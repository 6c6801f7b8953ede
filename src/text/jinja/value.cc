#include "text/jinja/value.h"

#include <algorithm>
#include <string_view>

#include "text/jinja/loop.h"

namespace lorax::jinja {
namespace {

void check_nesting(int nesting) {
  if (nesting >= kMaxNesting) raise("a value nests deeper than {} levels", kMaxNesting);
}

int nesting_of_items(const std::vector<Value>& items) {
  int nesting = 0;
  for (const Value& item : items) nesting = std::max(nesting, item.nesting());
  check_nesting(nesting);
  return nesting + 1;
}

bool equal_items(Budget& budget, const Sequence& a, const Sequence& b) {
  if (a.items.size() != b.items.size()) return false;
  for (size_t i = 0; i < a.items.size(); ++i) {
    if (!equal(budget, a.items[i], b.items[i])) return false;
  }
  return true;
}

bool equal_dicts(Budget& budget, const Dict& a, const Dict& b) {
  if (a.entries().size() != b.entries().size()) return false;
  return std::ranges::all_of(a.entries(), [&](const Dict::Entry& entry) {
    const Value* other = b.find(budget, entry.first);
    return other != nullptr && equal(budget, entry.second, *other);
  });
}

}  // namespace

Value* Namespace::find(std::string_view name) {
  const auto found = std::ranges::find(attributes, name, &decltype(attributes)::value_type::first);
  return found == attributes.end() ? nullptr : &found->second;
}

void Namespace::set(std::string_view name, Value value) {
  if (Value* old = find(name)) {
    *old = std::move(value);
  } else {
    attributes.emplace_back(name, std::move(value));
  }
}

Value Value::undefined(std::string message) {
  Value value;
  value.data_ = Undefined{std::make_shared<const std::string>(std::move(message))};
  return value;
}

Value Value::list(std::vector<Value> items, Sequence::Type type) {
  const int nesting = nesting_of_items(items);
  Sequence sequence;
  sequence.type = type;
  sequence.items = std::move(items);
  sequence.nesting = nesting;
  return std::make_shared<const Sequence>(std::move(sequence));
}

Value Value::tuple(std::vector<Value> items) {
  return list(std::move(items), Sequence::Type::kTuple);
}

Value Value::iterator(Budget& budget, std::function<std::optional<Value>()> next, int nesting) {
  check_nesting(nesting);
  auto iterator = budget.keep(std::make_shared<Iterator>());
  iterator->next = std::move(next);
  iterator->nesting = nesting + 1;
  return iterator;
}

Value Value::function(std::string name, std::function<Value(Args)> call, int nesting) {
  check_nesting(nesting);
  return std::make_shared<const Function>(Function{std::move(name), std::move(call), nesting + 1});
}

std::optional<Integer> Value::integer() const {
  if (const bool* value = boolean()) return *value ? 1 : 0;
  if (const Integer* value = std::get_if<Integer>(&data_)) return *value;
  return std::nullopt;
}

std::optional<double> Value::number() const {
  if (const double* value = real()) return *value;
  if (const auto value = integer()) return static_cast<double>(*value);
  return std::nullopt;
}

bool Value::truth() const {
  if (is_undefined() || is_none()) return false;
  if (const auto value = number()) return *value != 0;
  if (const Text* value = text()) return !value->bytes.empty();
  if (const Sequence* value = sequence()) return !value->items.empty();
  if (const Dict* value = dict()) return !value->entries().empty();
  return true;
}

int Value::nesting() const {
  if (const Sequence* value = sequence()) return value->nesting;
  if (const Dict* value = dict()) return value->nesting();
  if (const Iterator* value = iterator()) return value->nesting;
  if (const Function* value = function()) return value->nesting;
  return 0;
}

std::string_view Value::type_name() const {
  constexpr std::string_view kNames[] = {"Undefined", "NoneType",  "bool",     "int",
                                         "float",     "str",       "list",     "dict",
                                         "generator", "Namespace", "function", "LoopContext"};
  constexpr std::string_view kSequences[] = {"list",      "tuple",       "range",
                                             "dict_keys", "dict_values", "dict_items"};
  if (const Sequence* value = sequence()) return kSequences[static_cast<size_t>(value->type)];
  return kNames[data_.index()];
}

const void* Value::identity() const {
  return std::visit(
      [](const auto& held) -> const void* {
        if constexpr (requires { held.get(); }) {
          return held.get();
        } else {
          return nullptr;
        }
      },
      data_);
}

const std::string& Value::undefined_message() const {
  static const std::string kPlain = "a value is undefined";
  const Undefined* value = std::get_if<Undefined>(&data_);
  return value == nullptr || !value->message ? kPlain : *value->message;
}

void Dict::set(Budget& budget, Value key, Value value) {
  check_nesting(std::max(key.nesting(), value.nesting()));
  nesting_ = std::max({nesting_, key.nesting() + 1, value.nesting() + 1});
  const size_t hash = hash_of(budget, key);
  if (const auto old = find_entry(budget, key, hash)) {
    entries_[*old].second = std::move(value);
    return;
  }
  index_.emplace(hash, entries_.size());
  entries_.emplace_back(std::move(key), std::move(value));
}

std::optional<size_t> Dict::find_entry(Budget& budget, const Value& key, size_t hash) const {
  const auto range = index_.equal_range(hash);
  for (auto it = range.first; it != range.second; ++it) {
    if (equal(budget, entries_[it->second].first, key)) return it->second;
  }
  return std::nullopt;
}

const Value* Dict::find(Budget& budget, const Value& key) const {
  const auto found = find_entry(budget, key, hash_of(budget, key));
  return found ? &entries_[*found].second : nullptr;
}

const Value* Dict::find(std::string_view key) const {
  const auto range = index_.equal_range(std::hash<std::string_view>()(key));
  for (auto it = range.first; it != range.second; ++it) {
    const Entry& entry = entries_[it->second];
    const Text* text = entry.first.text();
    if (text != nullptr && text->bytes == key) return &entry.second;
  }
  return nullptr;
}

bool equal(Budget& budget, const Value& a, const Value& b) {
  const Budget::Level level(budget);
  if (a.is_number() && b.is_number()) {
    const auto x = a.integer();
    const auto y = b.integer();
    return x && y ? *x == *y : *a.number() == *b.number();
  }
  if (a.is_undefined() || a.is_none()) {
    return a.is_undefined() == b.is_undefined() && a.is_none() == b.is_none();
  }
  if (a.text() != nullptr && b.text() != nullptr) {
    budget.step(std::min(a.text()->bytes.size(), b.text()->bytes.size()) / 16);
    return a.text()->bytes == b.text()->bytes;
  }
  if (a.dict() != nullptr && b.dict() != nullptr) return equal_dicts(budget, *a.dict(), *b.dict());
  if (a.sequence() != nullptr && b.sequence() != nullptr &&
      a.sequence()->type == b.sequence()->type && a.sequence()->type != Sequence::Type::kValues) {
    return equal_items(budget, *a.sequence(), *b.sequence());
  }
  return a.identity() != nullptr && a.identity() == b.identity();
}

size_t hash_of(Budget& budget, const Value& value) {
  const Budget::Level level(budget);
  if (const Text* text = value.text()) return std::hash<std::string_view>()(text->bytes);
  if (const auto number = value.number()) return std::hash<double>()(*number);
  if (const Sequence* sequence = value.sequence();
      sequence != nullptr &&
      (sequence->type == Sequence::Type::kTuple || sequence->type == Sequence::Type::kRange)) {
    size_t hash = 0x9E3779B97F4A7C15u;
    for (const Value& item : sequence->items) {
      hash = (hash ^ hash_of(budget, item)) * 0x100000001B3u;
    }
    return hash;
  }
  if (value.sequence() != nullptr || value.dict() != nullptr) {
    raise("unhashable type: '{}'", value.type_name());
  }
  return std::hash<const void*>()(value.identity());
}

}  // namespace lorax::jinja
