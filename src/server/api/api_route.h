// The routes of the API, and what their handlers share.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/api/api_context.h"
#include "server/api/api_error.h"
#include "server/api/response_task.h"
#include "server/http/http.h"

namespace lorax {

struct ApiRoute {
  std::string method;
  std::string path;  // "/v1/models/*": all below
  HttpHandler handler;
  // Whether it can be called without an API key: it neither generates nor lists nor changes.
  bool is_open = false;
};

// What a handler does with its request, on the transport's thread: it answers through the writer,
// at once and in microseconds, or throws ApiError.
using ApiAction =
    std::function<void(const HttpRequest& request, const std::shared_ptr<ResponseWriter>& writer)>;

// A handler that answers an ApiError in its dialect.
HttpHandler plain_handler(ApiDialect dialect, ApiAction action);

// Whose turn work takes on the workers (WorkerPool).
struct WorkerLane {
  std::string flow;
  std::string place;
  bool always = false;
};

// That of an adapter, by the name that the request gives, which need not exist: "" is the base
// model; of merged ones, joined by commas.
WorkerLane lane_of(const std::string& adapter);

// For what takes longer or touches files: the answer, made on a worker. Throws ApiError. If the
// workers have too much to do the client gets kOverloaded; if it is not made within
// ApiSettings::preparation_time, kTimeout.
using ApiAnswer = std::function<HttpResponse(const HttpRequest& request)>;
HttpHandler worker_handler(std::shared_ptr<const ApiContext> context, ApiDialect dialect,
                           WorkerLane lane, ApiAnswer answer);

// Bodies up to this many bytes are read on the transport's thread, in tens of microseconds; longer
// ones on a worker.
inline constexpr size_t kShortBody = size_t{4} << 10;

// A response that is ready to begin: ResponseTask::start().
struct PlannedResponse {
  std::shared_ptr<ResponseTask> task;
  std::vector<GenerationRequest> generations;
};

// A request whose body has been read.
struct ReadRequest {
  std::string adapter;  // for lane_of()
  // Resolves, renders and tokenises, on a worker. Throws ApiError.
  std::function<PlannedResponse(RequestInfo info, const std::shared_ptr<ResponseWriter>& writer)>
      plan;
};

// For a route that generates. The observer is told of the request and of its failure; `info` has
// route, dialect and arrival. Overload and deadline as above.
using GeneratingAction = std::function<ReadRequest(const HttpRequest& request)>;
HttpHandler generating_handler(std::shared_ptr<const ApiContext> context, std::string route,
                               ApiDialect dialect, GeneratingAction read);

// 200 with a body of JSON.
HttpResponse json_response(std::string body);

// Notes how long the checks have taken, and the adapter.
void finish_validation(RequestInfo& info, const std::string& adapter);

}  // namespace lorax
