#include "text/jinja/filters.h"

#include "text/jinja/unicode.h"

namespace lorax::jinja {

Filter find_filter(std::string_view name) {
  for (const auto table :
       {text_filters, number_filters, sequence_filters, order_filters, calling_filters}) {
    if (const auto found = table().find(name); found != table().end()) return found->second;
  }
  return nullptr;
}

Value sort_key(Budget& budget, Value value, bool case_sensitive) {
  if (case_sensitive || value.text() == nullptr) return value;
  budget.allocate(value.text()->bytes.size());
  return to_lower(value.text()->bytes);
}

}  // namespace lorax::jinja
