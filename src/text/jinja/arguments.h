// The arguments of a call, matched to the names of parameters as Python does.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/value.h"

namespace lorax::jinja {

class Arguments {
 public:
  // Of a function `name` with these parameters, of which the first `required` must be given. Throws
  // TemplateError for too many, too few, unknown or doubled ones.
  Arguments(std::string_view name, Args args, std::initializer_list<std::string_view> parameters,
            size_t required = 0);

  // Whether the parameter was given.
  bool has(size_t index) const { return values_[index].has_value(); }
  // The argument, or undefined.
  Value value(size_t index) const { return has(index) ? *values_[index] : Value(); }
  Value value(size_t index, Value otherwise) const;
  bool truth(size_t index, bool otherwise) const;

  // The argument as what it must be, or `otherwise` if it was not given; throws TemplateError for
  // another type.
  Integer integer(size_t index, std::optional<Integer> otherwise = std::nullopt) const;
  std::string_view text(size_t index,
                        std::optional<std::string_view> otherwise = std::nullopt) const;

 private:
  [[noreturn]] void fail_type(size_t index, std::string_view wanted) const;

  std::string name_;
  std::vector<std::string_view> parameters_;
  std::vector<std::optional<Value>> values_;
};

}  // namespace lorax::jinja
