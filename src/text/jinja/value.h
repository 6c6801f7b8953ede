// The values that templates compute with: Python's, as far as a chat template can meet them. All
// are immutable but namespaces, iterators and loops.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "text/jinja/budget.h"

namespace lorax::jinja {

class Value;
class Dict;
class Loop;
struct Args;
struct Function;
struct Iterator;
struct Namespace;

// Python's integers have no limit; ours end at 127 bits, and an operation that passes them raises.
using Integer = __int128;

// What an unknown name or attribute gives. It prints as nothing; most uses raise `message`.
struct Undefined {
  std::shared_ptr<const std::string> message;
};

struct None {};

// UTF-8 that is known to be valid. `safe` is markupsafe's Markup, which the filter "safe" makes: a
// string that is added to it is escaped for HTML.
struct Text {
  std::string bytes;
  bool safe = false;
};

// Lists, and what else has a length and an order.
struct Sequence {
  enum class Type : uint8_t { kList, kTuple, kRange, kKeys, kValues, kItems };
  Type type = Type::kList;
  std::vector<Value> items;
  int nesting = 1;
  Integer start = 0, stop = 0, step = 1;  // of a range

  // Whether items can be had by their index.
  bool is_indexed() const { return type <= Type::kRange; }
};

class Value {
 public:
  Value() = default;  // undefined
  Value(None none) : data_(none) {}
  Value(bool value) : data_(value) {}
  Value(Integer value) : data_(value) {}
  Value(double value) : data_(value) {}
  Value(std::string bytes, bool safe = false)
      : data_(std::make_shared<const Text>(Text{std::move(bytes), safe})) {}
  Value(std::string_view bytes) : Value(std::string(bytes)) {}
  Value(const char* bytes) : Value(std::string(bytes)) {}
  Value(std::shared_ptr<const Sequence> sequence) : data_(std::move(sequence)) {}
  Value(std::shared_ptr<const Dict> dict) : data_(std::move(dict)) {}
  Value(std::shared_ptr<Iterator> iterator) : data_(std::move(iterator)) {}
  Value(std::shared_ptr<Namespace> space) : data_(std::move(space)) {}
  Value(std::shared_ptr<const Function> function) : data_(std::move(function)) {}
  Value(std::shared_ptr<Loop> loop) : data_(std::move(loop)) {}

  static Value undefined(std::string message);
  // Throws TemplateError if the items nest too deep.
  static Value list(std::vector<Value> items, Sequence::Type type = Sequence::Type::kList);
  static Value tuple(std::vector<Value> items);
  // A generator that holds values which nest `nesting` deep.
  static Value iterator(Budget& budget, std::function<std::optional<Value>()> next, int nesting);
  static Value function(std::string name, std::function<Value(Args)> call, int nesting = 0);

  bool is_undefined() const { return holds<Undefined>(); }
  bool is_none() const { return holds<None>(); }
  bool is_number() const { return holds<bool>() || holds<Integer>() || holds<double>(); }

  // What the value is, or null.
  const bool* boolean() const { return std::get_if<bool>(&data_); }
  const double* real() const { return std::get_if<double>(&data_); }
  const Text* text() const { return pointer<std::shared_ptr<const Text>>(); }
  const Sequence* sequence() const { return pointer<std::shared_ptr<const Sequence>>(); }
  const Dict* dict() const { return pointer<std::shared_ptr<const Dict>>(); }
  Iterator* iterator() const { return pointer<std::shared_ptr<Iterator>>(); }
  Namespace* space() const { return pointer<std::shared_ptr<Namespace>>(); }
  const Function* function() const { return pointer<std::shared_ptr<const Function>>(); }
  Loop* loop() const { return pointer<std::shared_ptr<Loop>>(); }
  // Of an integer or a boolean, which is one in Python.
  std::optional<Integer> integer() const;
  bool is_integer() const { return holds<Integer>(); }
  // Of an integer, boolean or float.
  std::optional<double> number() const;

  bool truth() const;
  // Lists and dicts within each other; 0 for what holds no values.
  int nesting() const;
  // The type's name in Python, for messages.
  std::string_view type_name() const;
  // The object itself, to tell whether two values are the same one; null for plain values.
  const void* identity() const;
  // The message that the use of an undefined value raises.
  const std::string& undefined_message() const;

 private:
  template <typename T>
  bool holds() const {
    return std::holds_alternative<T>(data_);
  }
  template <typename Pointer>
  auto pointer() const -> decltype(std::declval<Pointer>().get()) {
    const Pointer* found = std::get_if<Pointer>(&data_);
    return found == nullptr ? nullptr : found->get();
  }

  std::variant<Undefined, None, bool, Integer, double, std::shared_ptr<const Text>,
               std::shared_ptr<const Sequence>, std::shared_ptr<const Dict>,
               std::shared_ptr<Iterator>, std::shared_ptr<Namespace>,
               std::shared_ptr<const Function>, std::shared_ptr<Loop>>
      data_;
};

// A generator: gives its items once.
struct Iterator final : Mutable {
  std::function<std::optional<Value>()> next;
  int nesting = 1;

  void clear() override { next = nullptr; }
};

struct Namespace final : Mutable {
  std::vector<std::pair<std::string, Value>> attributes;

  void clear() override { attributes.clear(); }

  Value* find(std::string_view name);
  void set(std::string_view name, Value value);
};

struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keyword;
};

// A macro, a method with its object, or a global function.
struct Function {
  std::string name;
  std::function<Value(Args)> call;
  int nesting = 0;  // of the object that it is a method of
};

// Keeps the order of insertion, as Python's.
class Dict {
 public:
  using Entry = std::pair<Value, Value>;

  // Adds or replaces. Throws TemplateError for a key that cannot be one.
  void set(Budget& budget, Value key, Value value);
  // Null if there is none.
  const Value* find(Budget& budget, const Value& key) const;
  const Value* find(std::string_view key) const;
  const std::vector<Entry>& entries() const { return entries_; }
  int nesting() const { return nesting_; }

 private:
  std::optional<size_t> find_entry(Budget& budget, const Value& key, size_t hash) const;

  std::vector<Entry> entries_;
  std::unordered_multimap<size_t, size_t> index_;  // hash of a key to its entry
  int nesting_ = 1;
};

// Python's ==. Never raises for types, only for limits.
bool equal(Budget& budget, const Value& a, const Value& b);

// Equal values have equal hashes. Throws TemplateError for a list, dict or the like.
size_t hash_of(Budget& budget, const Value& value);

}  // namespace lorax::jinja
