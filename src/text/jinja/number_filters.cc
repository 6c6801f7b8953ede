#include <algorithm>
#include <cmath>

#include "text/jinja/arguments.h"
#include "text/jinja/attributes.h"
#include "text/jinja/filters.h"
#include "text/jinja/operators.h"
#include "text/jinja/python_number.h"

namespace lorax::jinja {
namespace {

void check_defined(const Value& value) {
  if (value.is_undefined()) raise("{}", value.undefined_message());
}

Value to_int(Budget&, const Value& value, Args args) {
  const Arguments given("int", std::move(args), {"default", "base"});
  check_defined(value);
  std::optional<Integer> result = value.integer();
  if (const Text* text = value.text()) {
    const Integer base = given.integer(1, 10);
    if (base < 0 || base == 1 || base > 36) return given.value(0, Integer{0});
    result = parse_integer(text->bytes, static_cast<int>(base));
    // "42.23" gives 42.
    if (!result) {
      const auto real = parse_real(text->bytes);
      if (real) result = truncate_real(*real);
    }
  } else if (value.real() != nullptr) {
    result = truncate_real(*value.real());
    if (!result && !std::isnan(*value.real())) raise("cannot convert float infinity to integer");
  }
  return result ? Value(*result) : given.value(0, Integer{0});
}

Value to_float(Budget&, const Value& value, Args args) {
  const Arguments given("float", std::move(args), {"default"});
  check_defined(value);
  const auto result = value.text() != nullptr ? parse_real(value.text()->bytes) : value.number();
  return result ? Value(*result) : given.value(0, 0.0);
}

Value absolute(Budget&, const Value& value, Args args) {
  const Arguments none("abs", std::move(args), {});
  check_defined(value);
  if (const double* real = value.real()) return std::fabs(*real);
  const auto integer = value.integer();
  if (!integer) raise("bad operand type for abs(): '{}'", value.type_name());
  return *integer < 0 ? negate(value) : Value(*integer);
}

Value round(Budget&, const Value& value, Args args) {
  const Arguments given("round", std::move(args), {"precision", "method"});
  const std::string_view method = given.text(1, "common");
  if (method != "common" && method != "ceil" && method != "floor") {
    raise("method must be common, ceil or floor");
  }
  check_defined(value);
  const auto digits = static_cast<int>(std::clamp<Integer>(given.integer(0, 0), -400, 400));
  const auto number = value.number();
  if (!number) raise("type {} cannot be rounded", value.type_name());
  if (method == "common") {
    if (const auto integer = value.integer()) {
      return digits >= 0 ? Value(*integer)
                         : Value(*truncate_real(round_real(static_cast<double>(*integer), digits)));
    }
    return round_real(*number, digits);
  }
  const double power = std::pow(10.0, digits);
  const double scaled = *number * power;
  if (!std::isfinite(scaled)) raise("cannot convert float infinity to integer");
  return (method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / power;
}

Value sum(Budget& budget, const Value& value, Args args) {
  const Arguments given("sum", std::move(args), {"attribute", "start"});
  const AttributePath path(given.value(0, None()));
  Value total = given.value(1, Integer{0});
  if (total.text() != nullptr) raise("sum() can't sum strings");
  Cursor cursor(budget, value);
  while (auto item = cursor.next()) {
    total = calculate(budget, Arithmetic::kAdd, total, path.follow(budget, std::move(*item)));
  }
  return total;
}

}  // namespace

const FilterTable& number_filters() {
  static const FilterTable kFilters = {
      {"abs", absolute}, {"float", to_float}, {"int", to_int}, {"round", round}, {"sum", sum},
  };
  return kFilters;
}

}  // namespace lorax::jinja
