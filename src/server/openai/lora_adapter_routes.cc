#include "server/openai/lora_adapter_routes.h"

#include <fmt/format.h>

#include "server/api/adapter_request.h"
#include "server/api/tenant.h"

namespace lorax {
namespace {

HttpResponse plain_text(std::string text) {
  HttpResponse response;
  response.content_type = "text/plain; charset=utf-8";
  response.body = std::move(text);
  return response;
}

HttpResponse load(const ApiContext& context, const LoraAdapterBody& body) {
  const std::string name = body.lora_name.value_or("");
  const std::string path = body.lora_path.value_or("");
  if (name.empty() || path.empty()) {
    refuse(name.empty() ? "lora_name" : "lora_path",
           "Both 'lora_name' and 'lora_path' must be provided.");
  }
  if (is_base_model(context, name)) {
    refuse("lora_name", fmt::format("'{}' is the name of the base model; choose another",
                                    context.settings.model_id));
  }
  const std::string id = context.adapters.add_alias(name, path, body.load_inplace);
  if (context.settings.refresh_adapter) context.settings.refresh_adapter(id);
  return plain_text(fmt::format("Success: LoRA adapter '{}' added successfully.", name));
}

HttpResponse unload(const ApiContext& context, const LoraAdapterBody& body) {
  const std::string name = body.lora_name.value_or("");
  if (name.empty()) refuse("lora_name", "'lora_name' must be provided to unload an adapter.");
  const std::string id = context.adapters.remove_alias(name);
  if (context.settings.forget_adapter) context.settings.forget_adapter(id);
  return plain_text(fmt::format("Success: LoRA adapter '{}' removed successfully.", name));
}

Field<LoraAdapterBody> not_empty(Field<LoraAdapterBody> text) {
  text.schema["minLength"] = 1;
  return required(std::move(text));
}

}  // namespace

FieldTable<LoraAdapterBody> load_adapter_fields() {
  using B = LoraAdapterBody;
  return {not_empty(field<B>("lora_name", &B::lora_name,
                             {"The name that requests will use.", "\"speaker\""})),
          not_empty(field<B>("lora_path", &B::lora_path,
                             {"The adapter's folder: a path below the server's adapter directory, "
                              "relative to it or absolute.",
                              "\"pirate\""})),
          field<B>("load_inplace", &B::load_inplace, {"Replace an adapter of that name."})};
}

FieldTable<LoraAdapterBody> unload_adapter_fields() {
  using B = LoraAdapterBody;
  return {not_empty(
      field<B>("lora_name", &B::lora_name, {"A name that was given at run time.", "\"speaker\""}))};
}

void add_lora_adapter_routes(const std::shared_ptr<const ApiContext>& context,
                             std::vector<ApiRoute>& routes) {
  const auto add = [&](const char* path, FieldTable<LoraAdapterBody> table, auto action) {
    // vLLM's words for missing fields are those of the action.
    for (Field<LoraAdapterBody>& field : table) field.is_required = false;
    const auto answer = [context, table, action, path](const HttpRequest& request) {
      if (!context->settings.allow_runtime_adapters) {
        throw ApiError(ErrorKind::kForbidden,
                       fmt::format("{} is off; start the server with --allow-runtime-adapters, or "
                                   "use adapters by their path below its adapter directory",
                                   path));
      }
      if (request.tenant != nullptr && !request.tenant->sees_all_adapters()) {
        throw ApiError(ErrorKind::kForbidden,
                       fmt::format("{} needs an API key that may use all adapters", path));
      }
      LoraAdapterBody body;
      read_fields(table, parse_body(request.body), body);
      return action(*context, body);
    };
    routes.push_back(
        {"POST", path,
         worker_handler(context, ApiDialect::kOpenAi, WorkerLane{path, path}, answer)});
  };
  add("/v1/load_lora_adapter", load_adapter_fields(), load);
  add("/v1/unload_lora_adapter", unload_adapter_fields(), unload);
}

}  // namespace lorax
