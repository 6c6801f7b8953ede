// The OpenAPI document (3.1) of all routes, made of the tables that requests are checked by.
#pragma once

#include <boost/json/object.hpp>

#include "server/api/api_context.h"

namespace lorax {

boost::json::object openapi_document(const ApiContext& context);

}  // namespace lorax
