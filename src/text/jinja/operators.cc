#include "text/jinja/operators.h"

#include <algorithm>
#include <cmath>

#include "base/html_escape.h"
#include "text/jinja/loop.h"
#include "text/jinja/string_format.h"
#include "text/jinja/string_search.h"
#include "text/jinja/unicode.h"

namespace lorax::jinja {
namespace {

void check_defined(const Value& value) {
  if (value.is_undefined()) raise("{}", value.undefined_message());
}

constexpr std::string_view kSymbols[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

[[noreturn]] void fail_operands(Arithmetic operation, const Value& a, const Value& b) {
  raise("unsupported operand type(s) for {}: '{}' and '{}'",
        kSymbols[static_cast<size_t>(operation)], a.type_name(), b.type_name());
}

[[noreturn]] void fail_range() { raise("an integer passes 127 bits"); }

Integer power(Integer base, Integer exponent) {
  Integer result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) fail_range();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) fail_range();
  }
  return result;
}

Integer floor_divide(Integer a, Integer b) {
  if (b == 0) raise("integer division or modulo by zero");
  if (b == -1) {
    Integer result = 0;
    if (__builtin_sub_overflow(Integer{0}, a, &result)) fail_range();
    return result;
  }
  const Integer quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

Value calculate_real(Arithmetic operation, double a, double b) {
  switch (operation) {
    case Arithmetic::kAdd:
      return a + b;
    case Arithmetic::kSubtract:
      return a - b;
    case Arithmetic::kMultiply:
      return a * b;
    case Arithmetic::kPower:
      if (a == 0 && b < 0) raise("0.0 cannot be raised to a negative power");
      if (a < 0 && b != std::floor(b)) raise("a power is a complex number");
      if (std::isinf(std::pow(a, b)) && std::isfinite(a) && std::isfinite(b)) {
        raise("(34, 'Numerical result out of range')");
      }
      return std::pow(a, b);
    default:
      break;
  }
  if (b == 0) raise("float division by zero");
  if (operation == Arithmetic::kDivide) return a / b;
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  if (remainder == 0) remainder = std::copysign(0.0, b);
  if (operation == Arithmetic::kModulo) return remainder;
  const double quotient = (a - remainder) / b;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double floored = std::floor(quotient);
  return quotient - floored > 0.5 ? floored + 1 : floored;
}

Value calculate_integer(Arithmetic operation, Integer a, Integer b) {
  Integer result = 0;
  switch (operation) {
    case Arithmetic::kAdd:
      if (__builtin_add_overflow(a, b, &result)) fail_range();
      return result;
    case Arithmetic::kSubtract:
      if (__builtin_sub_overflow(a, b, &result)) fail_range();
      return result;
    case Arithmetic::kMultiply:
      if (__builtin_mul_overflow(a, b, &result)) fail_range();
      return result;
    case Arithmetic::kDivide:
      if (b == 0) raise("division by zero");
      return static_cast<double>(a) / static_cast<double>(b);
    case Arithmetic::kFloorDivide:
      return floor_divide(a, b);
    case Arithmetic::kModulo:
      return b == -1 ? Integer{0} : Integer(a - floor_divide(a, b) * b);
    case Arithmetic::kPower:
      if (b < 0) return calculate_real(operation, static_cast<double>(a), static_cast<double>(b));
      return power(a, b);
  }
  return {};
}

// The text or list, `count` times.
Value repeat(Budget& budget, const Value& value, Integer count) {
  const auto times = static_cast<size_t>(std::clamp<Integer>(count, 0, SIZE_MAX));
  if (const Text* text = value.text()) {
    budget.allocate(times, text->bytes.size());
    std::string out;
    for (size_t i = 0; i < times && !text->bytes.empty(); ++i) out += text->bytes;
    return {std::move(out), text->safe};
  }
  const Sequence& sequence = *value.sequence();
  budget.allocate(times, sequence.items.size() * sizeof(Value));
  std::vector<Value> items;
  for (size_t i = 0; i < times && !sequence.items.empty(); ++i) {
    items.insert(items.end(), sequence.items.begin(), sequence.items.end());
  }
  return Value::list(std::move(items), sequence.type);
}

bool is_repeatable(const Value& value) {
  const Sequence* sequence = value.sequence();
  return value.text() != nullptr ||
         (sequence != nullptr && sequence->type <= Sequence::Type::kTuple);
}

Value add_texts(Budget& budget, const Text& a, const Text& b) {
  const bool safe = a.safe || b.safe;
  budget.allocate(a.bytes.size() + b.bytes.size());
  const auto add = [&](std::string& sum, const Text& text) {
    if (!safe || text.safe) {
      sum += text.bytes;
      return;
    }
    budget.allocate(text.bytes.size());
    sum += escape_html(text.bytes);
  };
  std::string sum;
  add(sum, a);
  add(sum, b);
  return {std::move(sum), safe};
}

Value add_lists(Budget& budget, const Sequence& a, const Sequence& b) {
  budget.allocate(a.items.size() + b.items.size(), sizeof(Value));
  std::vector<Value> items = a.items;
  items.insert(items.end(), b.items.begin(), b.items.end());
  return Value::list(std::move(items), a.type);
}

struct Bounds {
  Integer start = 0, stop = 0, step = 1;
};

// Python's slice.indices().
Bounds slice_bounds(const Value& start, const Value& stop, const Value& step, size_t size) {
  const auto read = [](const Value& value, Integer otherwise) -> Integer {
    if (value.is_none()) return otherwise;
    if (const auto integer = value.integer()) return *integer;
    raise("slice indices must be integers or None or have an __index__ method");
  };
  const auto length = static_cast<Integer>(size);
  Bounds bounds;
  bounds.step = read(step, 1);
  if (bounds.step == 0) raise("slice step cannot be zero");
  const bool backward = bounds.step < 0;
  const Integer lowest = backward ? -1 : 0;
  const Integer highest = backward ? length - 1 : length;
  const auto clip = [&](Integer at) {
    return std::clamp<Integer>(at < 0 ? at + length : at, lowest, highest);
  };
  bounds.start = start.is_none() ? (backward ? highest : lowest) : clip(read(start, 0));
  bounds.stop = stop.is_none() ? (backward ? lowest : highest) : clip(read(stop, 0));
  // A step beyond the length takes one item; this keeps sums in range.
  bounds.step = std::clamp<Integer>(bounds.step, -length - 1, length + 1);
  return bounds;
}

template <typename Take>
void for_each_in(const Bounds& bounds, Take take) {
  for (Integer i = bounds.start; bounds.step > 0 ? i < bounds.stop : i > bounds.stop;
       i += bounds.step) {
    take(static_cast<size_t>(i));
  }
}

bool less_items(Budget& budget, const Sequence& a, const Sequence& b) {
  const size_t common = std::min(a.items.size(), b.items.size());
  for (size_t i = 0; i < common; ++i) {
    if (!equal(budget, a.items[i], b.items[i])) return less(budget, a.items[i], b.items[i]);
  }
  return a.items.size() < b.items.size();
}

}  // namespace

Value calculate(Budget& budget, Arithmetic operation, const Value& a, const Value& b) {
  check_defined(a);
  if (operation == Arithmetic::kModulo && a.text() != nullptr)
    return format_percent(budget, *a.text(), b);
  check_defined(b);
  if (a.is_number() && b.is_number()) {
    const auto x = a.integer();
    const auto y = b.integer();
    if (x && y) return calculate_integer(operation, *x, *y);
    return calculate_real(operation, *a.number(), *b.number());
  }
  if (operation == Arithmetic::kMultiply) {
    if (is_repeatable(a) && b.integer()) return repeat(budget, a, *b.integer());
    if (is_repeatable(b) && a.integer()) return repeat(budget, b, *a.integer());
  }
  if (operation == Arithmetic::kAdd) {
    if (a.text() != nullptr && b.text() != nullptr) return add_texts(budget, *a.text(), *b.text());
    if (a.text() != nullptr) {
      raise("can only concatenate str (not \"{}\") to str", b.type_name());
    }
    const Sequence* x = a.sequence();
    const Sequence* y = b.sequence();
    if (x != nullptr && y != nullptr && x->type == y->type && x->type <= Sequence::Type::kTuple) {
      return add_lists(budget, *x, *y);
    }
  }
  fail_operands(operation, a, b);
}

Value negate(const Value& value) {
  check_defined(value);
  if (const double* real = value.real()) return -*real;
  if (const auto integer = value.integer()) {
    return calculate_integer(Arithmetic::kSubtract, 0, *integer);
  }
  raise("bad operand type for unary -: '{}'", value.type_name());
}

Value plus(const Value& value) {
  check_defined(value);
  if (const double* real = value.real()) return *real;
  if (const auto integer = value.integer()) return *integer;
  raise("bad operand type for unary +: '{}'", value.type_name());
}

bool less(Budget& budget, const Value& a, const Value& b) {
  const Budget::Level level(budget);
  check_defined(a);
  check_defined(b);
  if (a.is_number() && b.is_number()) {
    const auto x = a.integer();
    const auto y = b.integer();
    return x && y ? *x < *y : *a.number() < *b.number();
  }
  // The order of UTF-8's bytes is that of code points.
  if (a.text() != nullptr && b.text() != nullptr) return a.text()->bytes < b.text()->bytes;
  const Sequence* x = a.sequence();
  const Sequence* y = b.sequence();
  if (x != nullptr && y != nullptr && x->type == y->type && x->type <= Sequence::Type::kTuple) {
    return less_items(budget, *x, *y);
  }
  raise("'<' not supported between instances of '{}' and '{}'", a.type_name(), b.type_name());
}

bool less_or_equal(Budget& budget, const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    const auto x = a.integer();
    const auto y = b.integer();
    return x && y ? *x <= *y : *a.number() <= *b.number();
  }
  // less() raises for what has no order, so what is left here has a total one.
  return less(budget, a, b) || equal(budget, a, b);
}

bool contains(Budget& budget, const Value& container, const Value& item) {
  if (const Text* text = container.text()) {
    if (item.text() == nullptr) {
      check_defined(item);
      raise("'in <string>' requires string as left operand, not {}", item.type_name());
    }
    budget.step(text->bytes.size() / 16);
    return find_text(text->bytes, item.text()->bytes) != std::string_view::npos;
  }
  if (const Dict* dict = container.dict()) return dict->find(budget, item) != nullptr;
  if (!is_iterable(container)) {
    raise("argument of type '{}' is not iterable", container.type_name());
  }
  Cursor cursor(budget, container);
  while (const auto candidate = cursor.next()) {
    if (equal(budget, *candidate, item)) return true;
  }
  return false;
}

Value slice(Budget& budget, const Value& object, const Value& start, const Value& stop,
            const Value& step) {
  check_defined(object);
  if (const Text* text = object.text()) {
    const std::vector<std::string_view> all = characters(text->bytes);
    budget.allocate(all.size(), sizeof(std::string_view) + 1);
    std::string out;
    for_each_in(slice_bounds(start, stop, step, all.size()), [&](size_t i) { out += all[i]; });
    return {std::move(out), text->safe};
  }
  const Sequence* sequence = object.sequence();
  if (sequence == nullptr || !sequence->is_indexed()) {
    raise("'{}' object cannot be sliced", object.type_name());
  }
  budget.allocate(sequence->items.size(), sizeof(Value));
  const Bounds bounds = slice_bounds(start, stop, step, sequence->items.size());
  std::vector<Value> items;
  for_each_in(bounds, [&](size_t i) { items.push_back(sequence->items[i]); });
  if (sequence->type != Sequence::Type::kRange)
    return Value::list(std::move(items), sequence->type);
  Sequence range = *sequence;
  range.items = std::move(items);
  range.start = sequence->start + bounds.start * sequence->step;
  range.stop = sequence->start + bounds.stop * sequence->step;
  range.step = sequence->step * bounds.step;
  return std::make_shared<const Sequence>(std::move(range));
}

std::optional<size_t> length_of(const Value& value) {
  if (value.is_undefined()) return 0;
  if (const Text* text = value.text()) return count_characters(text->bytes);
  if (const Sequence* sequence = value.sequence()) return sequence->items.size();
  if (const Dict* dict = value.dict()) return dict->entries().size();
  if (Loop* loop = value.loop()) return loop->length();
  return std::nullopt;
}

size_t length_or_raise(const Value& value) {
  if (const auto length = length_of(value)) return *length;
  raise("object of type '{}' has no len()", value.type_name());
}

bool is_iterable(const Value& value) {
  return value.is_undefined() || value.text() != nullptr || value.sequence() != nullptr ||
         value.dict() != nullptr || value.iterator() != nullptr;
}

Cursor::Cursor(Budget& budget, Value value) : budget_(&budget), value_(std::move(value)) {
  if (!is_iterable(value_)) raise("'{}' object is not iterable", value_.type_name());
}

std::optional<Value> Cursor::next() {
  budget_->step();
  if (const Text* text = value_.text()) {
    if (at_ >= text->bytes.size()) return std::nullopt;
    const std::string_view character = character_at(text->bytes, at_);
    at_ += character.size();
    return Value(character);
  }
  if (const Sequence* sequence = value_.sequence()) {
    return at_ < sequence->items.size() ? std::optional(sequence->items[at_++]) : std::nullopt;
  }
  if (const Dict* dict = value_.dict()) {
    return at_ < dict->entries().size() ? std::optional(dict->entries()[at_++].first)
                                        : std::nullopt;
  }
  if (Iterator* iterator = value_.iterator()) {
    const Budget::Level level(*budget_);
    return iterator->next();
  }
  return std::nullopt;
}

std::vector<Value> to_vector(Budget& budget, const Value& value) {
  Cursor cursor(budget, value);
  std::vector<Value> items;
  while (auto item = cursor.next()) {
    budget.allocate(sizeof(Value));
    items.push_back(std::move(*item));
  }
  return items;
}

}  // namespace lorax::jinja
