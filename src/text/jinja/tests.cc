#include "text/jinja/tests.h"

#include <map>

#include "text/jinja/arguments.h"
#include "text/jinja/filters.h"
#include "text/jinja/operators.h"
#include "text/jinja/python_text.h"
#include "text/jinja/unicode.h"

namespace lorax::jinja {
namespace {

using Property = bool (*)(Budget& budget, const Value& value);

// A test without arguments.
template <Property kProperty>
bool plain(Budget& budget, const Value& value, Args args) {
  const Arguments none("test", std::move(args), {});
  return kProperty(budget, value);
}

using Relation = bool (*)(Budget& budget, const Value& value, const Value& other);

// A test with one argument.
template <Relation kRelation>
bool related(Budget& budget, const Value& value, Args args) {
  const Arguments given("test", std::move(args), {"other"}, 1);
  return kRelation(budget, value, given.value(0));
}

bool is_defined(Budget&, const Value& value) { return !value.is_undefined(); }
bool is_undefined(Budget&, const Value& value) { return value.is_undefined(); }
bool is_none(Budget&, const Value& value) { return value.is_none(); }
bool is_boolean(Budget&, const Value& value) { return value.boolean() != nullptr; }
bool is_true(Budget&, const Value& value) { return value.boolean() != nullptr && *value.boolean(); }
bool is_false(Budget&, const Value& value) {
  return value.boolean() != nullptr && !*value.boolean();
}
bool is_integer(Budget&, const Value& value) { return value.is_integer(); }
bool is_float(Budget&, const Value& value) { return value.real() != nullptr; }
bool is_number(Budget&, const Value& value) { return value.is_number(); }
bool is_string(Budget&, const Value& value) { return value.text() != nullptr; }
bool is_mapping(Budget&, const Value& value) { return value.dict() != nullptr; }
bool is_iterable_value(Budget&, const Value& value) {
  return is_iterable(value) || value.loop() != nullptr;
}
bool is_callable(Budget&, const Value& value) {
  return value.function() != nullptr || value.is_undefined() || value.loop() != nullptr;
}
bool is_escaped(Budget&, const Value& value) {
  return value.text() != nullptr && value.text()->safe;
}
bool is_sequence(Budget&, const Value& value) {
  const Sequence* sequence = value.sequence();
  return value.is_undefined() || value.text() != nullptr || value.dict() != nullptr ||
         (sequence != nullptr && sequence->is_indexed());
}
bool is_lower_case(Budget& budget, const Value& value) {
  return is_lower_text(to_string(budget, value));
}
bool is_upper_case(Budget& budget, const Value& value) {
  return is_upper_text(to_string(budget, value));
}

template <int kRest>
bool is_half(Budget& budget, const Value& value) {
  return equal(budget, calculate(budget, Arithmetic::kModulo, value, Integer{2}), Integer{kRest});
}

bool is_divisible(Budget& budget, const Value& value, const Value& other) {
  return equal(budget, calculate(budget, Arithmetic::kModulo, value, other), Integer{0});
}

bool is_same(Budget& budget, const Value& value, const Value& other) {
  if (value.identity() != nullptr || other.identity() != nullptr) {
    const bool texts = value.text() != nullptr && other.text() != nullptr;
    return texts ? equal(budget, value, other) : value.identity() == other.identity();
  }
  return value.type_name() == other.type_name() && equal(budget, value, other);
}

bool is_in(Budget& budget, const Value& value, const Value& other) {
  return contains(budget, other, value);
}

bool is_equal(Budget& budget, const Value& value, const Value& other) {
  return equal(budget, value, other);
}
bool is_unequal(Budget& budget, const Value& value, const Value& other) {
  return !equal(budget, value, other);
}
bool is_less(Budget& budget, const Value& value, const Value& other) {
  return less(budget, value, other);
}
bool is_greater(Budget& budget, const Value& value, const Value& other) {
  return less(budget, other, value);
}
bool is_at_most(Budget& budget, const Value& value, const Value& other) {
  return less_or_equal(budget, value, other);
}
bool is_at_least(Budget& budget, const Value& value, const Value& other) {
  return less_or_equal(budget, other, value);
}

bool is_filter(Budget&, const Value& value) {
  return value.text() != nullptr && find_filter(value.text()->bytes) != nullptr;
}
bool is_test(Budget&, const Value& value) {
  return value.text() != nullptr && find_test(value.text()->bytes) != nullptr;
}

}  // namespace

Test find_test(std::string_view name) {
  static const std::map<std::string_view, Test> kTests = {
      {"!=", related<is_unequal>},
      {"<", related<is_less>},
      {"<=", related<is_at_most>},
      {"==", related<is_equal>},
      {">", related<is_greater>},
      {">=", related<is_at_least>},
      {"boolean", plain<is_boolean>},
      {"callable", plain<is_callable>},
      {"defined", plain<is_defined>},
      {"divisibleby", related<is_divisible>},
      {"eq", related<is_equal>},
      {"equalto", related<is_equal>},
      {"escaped", plain<is_escaped>},
      {"even", plain<is_half<0>>},
      {"false", plain<is_false>},
      {"filter", plain<is_filter>},
      {"float", plain<is_float>},
      {"ge", related<is_at_least>},
      {"greaterthan", related<is_greater>},
      {"gt", related<is_greater>},
      {"in", related<is_in>},
      {"integer", plain<is_integer>},
      {"iterable", plain<is_iterable_value>},
      {"le", related<is_at_most>},
      {"lessthan", related<is_less>},
      {"lower", plain<is_lower_case>},
      {"lt", related<is_less>},
      {"mapping", plain<is_mapping>},
      {"ne", related<is_unequal>},
      {"none", plain<is_none>},
      {"number", plain<is_number>},
      {"odd", plain<is_half<1>>},
      {"sameas", related<is_same>},
      {"sequence", plain<is_sequence>},
      {"string", plain<is_string>},
      {"test", plain<is_test>},
      {"true", plain<is_true>},
      {"undefined", plain<is_undefined>},
      {"upper", plain<is_upper_case>},
  };
  const auto found = kTests.find(name);
  return found == kTests.end() ? nullptr : found->second;
}

}  // namespace lorax::jinja
