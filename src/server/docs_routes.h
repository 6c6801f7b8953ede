// GET "/docs" and "/api-doc/openapi.json".
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/api/api_route.h"

namespace lorax {

// A page of plain HTML: each route with a curl line that can be run. `server`: "http://host:port".
std::string docs_page(const ApiContext& context, const std::string& server);

void add_docs_routes(const std::shared_ptr<const ApiContext>& context,
                     std::vector<ApiRoute>& routes);

}  // namespace lorax
