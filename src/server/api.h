// The REST API: all routes of LoRAX's and OpenAI's form that this server has. docs/api.md
#pragma once

#include <vector>

#include "server/api/api_context.h"
#include "server/api/api_route.h"

namespace lorax {

// The routes, for a router to offer. The handlers may be called from any thread, and share
// ownership of a copy of the context's settings; what the context refers to is not theirs.
std::vector<ApiRoute> make_api_routes(ApiContext context);

}  // namespace lorax
