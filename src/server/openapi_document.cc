#include "server/openapi_document.h"

#include <string>
#include <string_view>
#include <utility>

#include <boost/algorithm/string/case_conv.hpp>
#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>

#include "server/api_operations.h"
#include "server/lorax/generate_request.h"
#include "server/lorax/tokenize_route.h"
#include "server/openai/chat_request.h"
#include "server/openai/completion_request.h"
#include "server/openai/lora_adapter_routes.h"
#include "server/response_schemas.h"

namespace lorax {
namespace {

namespace json = boost::json;

constexpr std::string_view kEvents = "text/event-stream";

json::object reference(const std::string& name) {
  return {{"$ref", "#/components/schemas/" + name}};
}

json::object request_schemas(const ApiContext& context) {
  const ApiSettings& settings = context.settings;
  const ServiceLimits& limits = context.service.limits();
  json::object schemas;
  schemas["GenerateRequest"] = schema_of(generate_fields(settings, limits, false));
  schemas["CompatGenerateRequest"] = schema_of(generate_fields(settings, limits, true));
  schemas["TokenizeRequest"] = schema_of(tokenize_fields());
  schemas["CompletionRequest"] = schema_of(completion_fields(settings));
  schemas["ChatRequest"] = schema_of(chat_fields(settings));
  for (const char* name : {"CompletionRequest", "ChatRequest"}) {
    exclude_both_adapter_fields(schemas[name].get_object());
  }
  schemas["LoadAdapterRequest"] = schema_of(load_adapter_fields());
  schemas["UnloadAdapterRequest"] = schema_of(unload_adapter_fields());
  return schemas;
}

const char* description_of(int status) {
  switch (status) {
    case 400:
      return "The body is not JSON, or a field of it is wrong.";
    case 403:
      return "The server has been started without this.";
    case 404:
      return "There is no such model or adapter.";
    case 413:
      return "The body is too large.";
    case 415:
      return "The body is not declared as JSON.";
    case 422:
      return "A field is missing, of a wrong type or out of range.";
    case 424:
      return "The adapter cannot be loaded, or the generation failed.";
    case 429:
      return "There are too many requests at once; try again later.";
    case 503:
      return "The engine has failed, or the server is stopping.";
    case 504:
      return "The request took longer than the server allows.";
    default:
      return "The request was ended from outside, or this program has a fault.";
  }
}

json::object content_of(const std::string& type, json::object schema) {
  return {{type, json::object{{"schema", std::move(schema)}}}};
}

json::object error_of(int status, ApiDialect dialect) {
  const char* schema = dialect == ApiDialect::kLorax ? "LoraxError" : "OpenAiError";
  return {{"description", description_of(status)},
          {"content", content_of("application/json", reference(schema))}};
}

json::object success_of(const ApiOperation& operation) {
  json::object success = {{"description", "Success."}};
  if (operation.response_type.empty()) return success;
  json::object schema = {{"type", "string"}};
  if (operation.response_type == kEvents) {
    // OpenAPI 3.1 has no schemas of events.
    schema = {{"description", "Server-sent events; `data` of each is JSON of this schema."},
              {"x-event-data", reference(operation.response)}};
  } else if (!operation.response.empty()) {
    schema = reference(operation.response);
  } else if (operation.response_type == "application/json") {
    schema = {{"type", "object"}};
  }
  json::object content = content_of(operation.response_type, std::move(schema));
  if (operation.streams && operation.response_type != kEvents) {
    content[kEvents] =
        json::object{{"schema", json::object{{"description", "If `stream` is true."}}}};
  }
  success["content"] = std::move(content);
  return success;
}

json::object describe(const ApiOperation& operation) {
  json::object described = {{"tags", json::array{operation.tag}},
                            {"summary", operation.summary},
                            {"operationId", operation.id}};
  if (operation.path.ends_with("{model}")) {
    described["parameters"] =
        json::array{json::object{{"name", "model"},
                                 {"in", "path"},
                                 {"required", true},
                                 {"schema", json::object{{"type", "string"}}},
                                 {"description", "An id of /v1/models; it may hold slashes."}}};
  }
  if (!operation.request.empty()) {
    json::object media = {{"schema", reference(operation.request)},
                          {"example", json::parse(operation.example)}};
    described["requestBody"] = json::object{
        {"required", true}, {"content", json::object{{"application/json", std::move(media)}}}};
  }
  json::object responses = {{"200", success_of(operation)}};
  for (const int status : operation.errors) {
    responses[std::to_string(status)] = error_of(status, operation.dialect);
  }
  json::object other = error_of(500, operation.dialect);
  other["description"] = "Any other error: 401 without an API key where one is needed, 405, 408.";
  responses["default"] = std::move(other);
  described["responses"] = std::move(responses);
  return described;
}

}  // namespace

json::object openapi_document(const ApiContext& context) {
  json::object paths;
  for (const ApiOperation& operation : api_operations(context)) {
    json::value& path = paths[operation.path];
    if (!path.is_object()) path.emplace_object();
    path.get_object()[boost::algorithm::to_lower_copy(operation.method)] = describe(operation);
  }
  json::object schemas = request_schemas(context);
  for (const auto& [name, schema] : response_schemas()) schemas[name] = schema;
  json::object bearer = {{"type", "http"},
                         {"scheme", "bearer"},
                         {"description", "Where the server has been started with --api-key."}};
  return {{"openapi", "3.1.0"},
          {"info", json::object{{"title", "lorax.cpp"},
                                {"version", context.settings.version},
                                {"description",
                                 "Text generation with one model and any number of LoRA adapters, "
                                 "by the APIs of LoRAX and OpenAI."}}},
          {"paths", std::move(paths)},
          {"components",
           json::object{{"schemas", std::move(schemas)},
                        {"securitySchemes", json::object{{"bearer", std::move(bearer)}}}}},
          {"security", json::array{json::object(), json::object{{"bearer", json::array()}}}}};
}

}  // namespace lorax
