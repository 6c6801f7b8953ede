// The JSON Schemas of what routes answer, by name.
#pragma once

#include <boost/json/object.hpp>

namespace lorax {

boost::json::object response_schemas();

}  // namespace lorax
