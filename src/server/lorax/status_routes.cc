#include "server/lorax/status_routes.h"

#include <utility>

#include "formats/json_writer.h"

namespace lorax {
namespace {

// Whether new requests should come here.
void health(const ApiContext& context, const std::shared_ptr<ResponseWriter>& writer) {
  const ApiSettings& settings = context.settings;
  if (!context.service.healthy() || (settings.fault && !settings.fault().empty())) {
    throw ApiError(ErrorKind::kUnhealthy, "unhealthy");
  }
  if (settings.is_draining && settings.is_draining()) {
    throw ApiError(ErrorKind::kStopping, "the server is shutting down");
  }
  writer->respond({});
}

// Whether the server has started: nobody can ask before the model has been warmed up, so that only
// a failure since then is to be told. Nothing is generated: probes do not compete with requests.
void startup(const ApiContext& context, const std::shared_ptr<ResponseWriter>& writer) {
  if (!context.service.healthy()) throw ApiError(ErrorKind::kUnhealthy, "unhealthy");
  writer->respond({});
}

void optional_field(JsonWriter& json, std::string_view name, const std::string& text) {
  json.key(name);
  text.empty() ? json.null() : json.value(text);
}

}  // namespace

std::string info_body(const ApiContext& context) {
  const ApiSettings& settings = context.settings;
  const ServiceLimits& limits = context.service.limits();
  JsonWriter json;
  json.begin_object();
  json.field("model_id", settings.model_id);
  optional_field(json, "model_sha", settings.model_sha);
  json.field("model_dtype", settings.model_dtype);
  json.field("model_device_type", settings.device_type);
  json.field("model_pipeline_tag", "text-generation");
  json.field("max_concurrent_requests", limits.max_concurrent_requests);
  json.field("max_best_of", settings.max_best_of);
  json.field("max_stop_sequences", settings.max_stop_sequences);
  json.field("max_input_length", limits.max_input_tokens);
  json.field("max_total_tokens", limits.max_total_tokens);
  // Every step takes new requests in, and prefill comes in chunks beside running decodes: there is
  // nothing to wait for.
  json.field("waiting_served_ratio", 0.0);
  json.field("max_batch_total_tokens", settings.max_batch_total_tokens);
  json.field("max_waiting_tokens", 0);
  json.field("validation_workers", context.workers.threads());
  json.field("eager_prefill", true);
  json.field("version", settings.version);
  optional_field(json, "sha", settings.sha);
  json.null_field("docker_label");
  json.null_field("request_logger_url");
  json.end_object();
  return json.take();
}

void add_status_routes(const std::shared_ptr<const ApiContext>& context,
                       std::vector<ApiRoute>& routes) {
  using Writer = std::shared_ptr<ResponseWriter>;
  for (const char* path : {"/", "/health", "/ping"}) {
    routes.push_back({"GET", path,
                      plain_handler(ApiDialect::kLorax,
                                    [context](const HttpRequest&, const Writer& writer) {
                                      health(*context, writer);
                                    }),
                      /*is_open=*/true});
  }
  routes.push_back({"GET", "/startup",
                    plain_handler(ApiDialect::kLorax,
                                  [context](const HttpRequest&, const Writer& writer) {
                                    startup(*context, writer);
                                  }),
                    /*is_open=*/true});
  routes.push_back(
      {"GET", "/info",
       plain_handler(ApiDialect::kLorax, [context](const HttpRequest&, const Writer& writer) {
         writer->respond(json_response(info_body(*context)));
       })});
  if (!context->settings.metrics) return;
  // Thousands of adapters make many lines.
  routes.push_back(
      {"GET", "/metrics",
       worker_handler(
           context, ApiDialect::kLorax, WorkerLane{"/metrics", "", /*always=*/true},
           [context](const HttpRequest& request) { return context->settings.metrics(request); }),
       /*is_open=*/!context->settings.protects_status});
}

}  // namespace lorax
