// The routes of the API, and what their handlers share.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/api_context.h"
#include "server/api_error.h"
#include "server/http.h"
#include "server/response_task.h"

namespace lorax {

struct ApiRoute {
  std::string method;
  std::string path;  // "/v1/models/*": all below
  HttpHandler handler;
  // Whether it can be called without an API key: it neither generates nor lists nor changes.
  bool is_open = false;
};

// What a handler does with its request: it answers through the writer, now or later, or throws
// ApiError.
using ApiAction =
    std::function<void(const HttpRequest& request, const std::shared_ptr<ResponseWriter>& writer)>;

// A handler that answers an ApiError in its dialect.
HttpHandler plain_handler(ApiDialect dialect, ApiAction action);

// Bodies up to this many bytes are dealt with on the transport's thread, in well under a
// millisecond; longer ones on a worker. If those have too much to do the request is refused as
// kOverloaded.
inline constexpr size_t kShortBody = size_t{4} << 10;

// The same for a route whose work grows with the body.
HttpHandler worker_handler(std::shared_ptr<const ApiContext> context, ApiDialect dialect,
                           ApiAction action);

// The same for a route that generates: the observer is told of the request and of its failure.
// `info` has route, dialect and arrival.
using GeneratingAction = std::function<void(const HttpRequest& request, RequestInfo info,
                                            const std::shared_ptr<ResponseWriter>& writer)>;
HttpHandler generating_handler(std::shared_ptr<const ApiContext> context, std::string route,
                               ApiDialect dialect, GeneratingAction action);

// 200 with a body of JSON.
HttpResponse json_response(std::string body);

// Notes how long the checks have taken, and the adapter.
void finish_validation(RequestInfo& info, const std::string& adapter);

}  // namespace lorax
