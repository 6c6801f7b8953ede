// GET /v1/models and /v1/models/<id>: the served model and its adapters.
#pragma once

#include <memory>
#include <vector>

#include "server/api/api_route.h"

namespace lorax {

void add_models_routes(const std::shared_ptr<const ApiContext>& context,
                       std::vector<ApiRoute>& routes);

}  // namespace lorax
