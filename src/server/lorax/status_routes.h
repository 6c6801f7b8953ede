// GET "/", "/health", "/ping", "/startup", "/info" and "/metrics".
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/api/api_route.h"

namespace lorax {

// The body of /info.
std::string info_body(const ApiContext& context);

void add_status_routes(const std::shared_ptr<const ApiContext>& context,
                       std::vector<ApiRoute>& routes);

}  // namespace lorax
