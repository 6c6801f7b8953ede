// What documents the routes: one entry for each, in the order of the documentation. The OpenAPI
// document and the page at /docs are made of it.
#pragma once

#include <string>
#include <vector>

#include <boost/json/object.hpp>

#include "server/api/api_context.h"
#include "server/api/api_error.h"

namespace lorax {

struct ApiOperation {
  std::string method;
  std::string path;  // as OpenAPI spells it: "/v1/models/{model}"
  std::string tag;
  std::string id;
  std::string summary;
  std::string request;        // the schema of the body in components, "" for none
  std::string example;        // a body, JSON
  std::string response;       // the schema of the answer in components, "" for none
  std::string response_type;  // of its content; "" if it has none
  bool streams = false;       // the answer may be, or is, server-sent events
  std::vector<int> errors;    // statuses
  ApiDialect dialect = ApiDialect::kLorax;
};

std::vector<ApiOperation> api_operations(const ApiContext& context);

}  // namespace lorax
