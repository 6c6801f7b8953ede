#include "server/http/http.h"

#include <boost/algorithm/string/predicate.hpp>

namespace lorax {

std::optional<std::string_view> HttpRequest::header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (boost::iequals(key, name)) return value;
  }
  return std::nullopt;
}

}  // namespace lorax
