// POST "/generate", "/generate_stream", "/" and "/invocations".
#pragma once

#include <memory>
#include <vector>

#include "server/api/api_route.h"

namespace lorax {

void add_generate_routes(const std::shared_ptr<const ApiContext>& context,
                         std::vector<ApiRoute>& routes);

}  // namespace lorax
