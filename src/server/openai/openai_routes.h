// POST /v1/completions and /v1/chat/completions.
#pragma once

#include <memory>
#include <vector>

#include "server/api/api_route.h"

namespace lorax {

void add_openai_routes(const std::shared_ptr<const ApiContext>& context,
                       std::vector<ApiRoute>& routes);

}  // namespace lorax
