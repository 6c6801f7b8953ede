#include "text/jinja/arguments.h"

#include <algorithm>

#include "base/check.h"

namespace lorax::jinja {

Arguments::Arguments(std::string_view name, Args args,
                     std::initializer_list<std::string_view> parameters, size_t required)
    : name_(name), parameters_(parameters), values_(parameters.size()) {
  if (args.positional.size() > parameters.size()) {
    raise("{}() takes at most {} arguments ({} given)", name, parameters.size(),
          args.positional.size());
  }
  std::ranges::move(args.positional, values_.begin());
  for (auto& [keyword, value] : args.keyword) {
    const auto found = std::ranges::find(parameters_, keyword);
    if (found == parameters_.end()) {
      raise("{}() got an unexpected keyword argument '{}'", name, keyword);
    }
    std::optional<Value>& slot = values_[static_cast<size_t>(found - parameters_.begin())];
    if (slot) raise("{}() got multiple values for argument '{}'", name, keyword);
    slot = std::move(value);
  }
  for (size_t i = 0; i < required; ++i) {
    if (!values_[i]) raise("{}() missing the argument '{}'", name, parameters_[i]);
  }
}

Value Arguments::value(size_t index, Value otherwise) const {
  if (has(index)) return *values_[index];
  return otherwise;
}

bool Arguments::truth(size_t index, bool otherwise) const {
  return has(index) ? values_[index]->truth() : otherwise;
}

Integer Arguments::integer(size_t index, std::optional<Integer> otherwise) const {
  if (!has(index) && otherwise) return *otherwise;
  if (const auto integer = value(index).integer()) return *integer;
  fail_type(index, "an integer");
}

std::string_view Arguments::text(size_t index, std::optional<std::string_view> otherwise) const {
  if (!has(index) && otherwise) return *otherwise;
  if (has(index) && values_[index]->text() != nullptr) return values_[index]->text()->bytes;
  fail_type(index, "a string");
}

void Arguments::fail_type(size_t index, std::string_view wanted) const {
  if (has(index) && values_[index]->is_undefined())
    raise("{}", values_[index]->undefined_message());
  raise("{}(): '{}' must be {}, not {}", name_, parameters_[index], wanted,
        value(index).type_name());
}

}  // namespace lorax::jinja
