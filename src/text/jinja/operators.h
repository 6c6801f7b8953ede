// Python's operators on values. All throw TemplateError where Python raises.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>

#include "text/jinja/value.h"

namespace lorax::jinja {

enum class Arithmetic : uint8_t {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower
};

Value calculate(Budget& budget, Arithmetic operation, const Value& a, const Value& b);
Value negate(const Value& value);
Value plus(const Value& value);

bool less(Budget& budget, const Value& a, const Value& b);
bool less_or_equal(Budget& budget, const Value& a, const Value& b);
// `item` in `container`; an iterator is read up to the item.
bool contains(Budget& budget, const Value& container, const Value& item);

// object[start:stop:step]; a bound that is none stands for the end.
Value slice(Budget& budget, const Value& object, const Value& start, const Value& stop,
            const Value& step);

// len(). Nothing for what has none.
std::optional<size_t> length_of(const Value& value);
size_t length_or_raise(const Value& value);

// Goes through what `value` gives: characters, items, keys. It keeps the value alive.
class Cursor {
 public:
  // Throws TemplateError if the value cannot be iterated.
  Cursor(Budget& budget, Value value);
  std::optional<Value> next();

 private:
  Budget* budget_;
  Value value_;
  size_t at_ = 0;
};

bool is_iterable(const Value& value);
std::vector<Value> to_vector(Budget& budget, const Value& value);

}  // namespace lorax::jinja
