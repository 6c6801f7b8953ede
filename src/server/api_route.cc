#include "server/api_route.h"

#include <utility>

namespace lorax {

HttpHandler plain_handler(ApiDialect dialect, ApiAction action) {
  return [dialect, action = std::move(action)](const HttpRequest& request,
                                               const std::shared_ptr<ResponseWriter>& writer) {
    try {
      action(request, writer);
    } catch (const ApiError& error) {
      writer->respond(error_response(error, dialect));
    }
  };
}

HttpHandler generating_handler(std::shared_ptr<const ApiContext> context, std::string route,
                               ApiDialect dialect, GeneratingAction action) {
  return
      [context = std::move(context), route = std::move(route), dialect, action = std::move(action)](
          const HttpRequest& request, const std::shared_ptr<ResponseWriter>& writer) {
        RequestInfo info;
        info.route = route;
        info.dialect = dialect;
        info.arrival = std::chrono::steady_clock::now();
        context->observer.on_request(route);
        try {
          action(request, info, writer);
        } catch (const ApiError& error) {
          context->observer.on_failure(failure_label(error.kind()));
          writer->respond(error_response(error, dialect));
        } catch (...) {
          context->observer.on_failure("generation");
          throw;
        }
      };
}

HttpResponse json_response(std::string body) {
  HttpResponse response;
  response.body = std::move(body);
  return response;
}

void finish_validation(RequestInfo& info, const std::string& adapter) {
  info.validation = std::chrono::steady_clock::now() - info.arrival;
  info.adapter = adapter;
}

}  // namespace lorax
