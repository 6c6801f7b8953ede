#include "server/api.h"

#include <memory>
#include <utility>

#include "server/docs_routes.h"
#include "server/lorax/generate_routes.h"
#include "server/lorax/status_routes.h"
#include "server/lorax/tokenize_route.h"
#include "server/openai/lora_adapter_routes.h"
#include "server/openai/models_route.h"
#include "server/openai/openai_routes.h"

namespace lorax {

std::vector<ApiRoute> make_api_routes(ApiContext context) {
  const auto shared = std::make_shared<const ApiContext>(std::move(context));
  std::vector<ApiRoute> routes;
  add_status_routes(shared, routes);
  add_generate_routes(shared, routes);
  add_tokenize_route(shared, routes);
  add_openai_routes(shared, routes);
  add_models_routes(shared, routes);
  add_lora_adapter_routes(shared, routes);
  add_docs_routes(shared, routes);
  return routes;
}

}  // namespace lorax
