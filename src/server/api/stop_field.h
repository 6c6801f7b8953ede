// The field "stop", which both forms of the API have.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

namespace lorax::fields {

// A string or a list of strings, added to `stop`. Throws ApiError.
void read_stop(const boost::json::value& value, std::vector<std::string>& stop);

boost::json::object stop_schema(int64_t max_count);

}  // namespace lorax::fields
