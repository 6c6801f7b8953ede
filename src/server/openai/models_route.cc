#include "server/openai/models_route.h"

#include <fmt/format.h>

#include <string>

#include "formats/json_writer.h"
#include "formats/printable.h"
#include "server/api/adapter_request.h"

namespace lorax {
namespace {

constexpr std::string_view kListing = "/v1/models";
constexpr std::string_view kBelow = "/v1/models/";

void write_base(JsonWriter& json, const ApiContext& context, const std::string& name) {
  json.begin_object();
  json.field("id", name);
  json.field("object", "model");
  json.field("created", context.settings.started);
  json.field("owned_by", "lorax");
  json.field("root", context.settings.model_id);
  json.null_field("parent");
  json.field("max_model_len", context.service.limits().max_total_tokens);
  json.end_object();
}

void write_adapter(JsonWriter& json, const ApiContext& context,
                   const AdapterDirectory::Entry& adapter) {
  json.begin_object();
  json.field("id", adapter.name);
  json.field("object", "model");
  json.field("created", adapter.created);
  json.field("owned_by", "lorax");
  json.field("root", context.adapters.folder_of(adapter.path));
  json.field("parent", context.settings.model_id);
  json.field("max_model_len", context.service.limits().max_total_tokens);
  json.end_object();
}

HttpResponse list(const ApiContext& context, const Tenant* tenant) {
  JsonWriter json;
  json.begin_object();
  json.field("object", "list");
  json.key("data").begin_array();
  write_base(json, context, context.settings.model_id);
  for (const std::string& name : context.settings.model_names) write_base(json, context, name);
  for (const AdapterDirectory::Entry& adapter : VisibleAdapters(context.adapters, tenant).list()) {
    write_adapter(json, context, adapter);
  }
  json.end_array().end_object();
  return json_response(json.take());
}

HttpResponse one(const ApiContext& context, const std::string& id, const Tenant* tenant) {
  JsonWriter json;
  if (is_base_model(context, id)) {
    write_base(json, context, id == kBaseModelId ? context.settings.model_id : id);
    return json_response(json.take());
  }
  for (const AdapterDirectory::Entry& adapter : VisibleAdapters(context.adapters, tenant).list()) {
    if (adapter.name != id) continue;
    write_adapter(json, context, adapter);
    return json_response(json.take());
  }
  throw ApiError(
      ErrorKind::kUnknownModel,
      fmt::format("the model \"{}\" does not exist; /v1/models lists those that do", printable(id)),
      "model");
}

}  // namespace

void add_models_routes(const std::shared_ptr<const ApiContext>& context,
                       std::vector<ApiRoute>& routes) {
  // A listing reads the directory, and probes ask for it: it is never refused.
  const WorkerLane lane{std::string(kListing), std::string(kListing), /*always=*/true};
  routes.push_back(
      {"GET", std::string(kListing),
       worker_handler(context, ApiDialect::kOpenAi, lane, [context](const HttpRequest& request) {
         return list(*context, request.tenant.get());
       })});
  routes.push_back(
      {"GET", std::string(kBelow) + "*",
       worker_handler(context, ApiDialect::kOpenAi, lane, [context](const HttpRequest& request) {
         return one(*context, request.path.substr(kBelow.size()), request.tenant.get());
       })});
}

}  // namespace lorax
