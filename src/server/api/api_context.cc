#include "server/api/api_context.h"

#include <algorithm>

#include <boost/algorithm/string/replace.hpp>

#include "server/api/adapter_request.h"

namespace lorax {

bool is_base_model(const ApiContext& context, std::string_view name) {
  const ApiSettings& settings = context.settings;
  return name.empty() || name == kBaseModelId || name == settings.model_id ||
         std::ranges::find(settings.model_names, name) != settings.model_names.end();
}

ApiError for_clients(const ApiContext& context, const ApiError& error) {
  std::string message = context.adapters.without_roots(error.what());
  const std::string& path = context.settings.model_path;
  if (!path.empty()) boost::replace_all(message, path + "/", "");
  return ApiError(error.kind(), message, error.param()).set_retry_after(error.retry_after());
}

}  // namespace lorax
