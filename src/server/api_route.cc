#include "server/api_route.h"

#include <utility>

namespace lorax {

namespace {

using Writer = std::shared_ptr<ResponseWriter>;

void answer_error(ResponseWriter& writer, const ApiError& error, ApiDialect dialect) {
  note_error(writer, error);
  writer.respond(error_response(error, dialect));
}

// Answers here, or on a worker.
void answer_where_due(const ApiContext& context, ApiDialect dialect, HttpRequest request,
                      const Writer& writer, ApiAction answer,
                      const std::function<void()>& refused) {
  if (request.body.size() <= kShortBody) return answer(request, writer);
  const bool is_taken =
      context.workers.try_run([request = std::move(request), writer, answer = std::move(answer)] {
        answer(request, writer);
      });
  if (is_taken) return;
  refused();
  answer_error(*writer, {ErrorKind::kOverloaded, "Model is overloaded"}, dialect);
}

// Workers may outlive the handler.
struct GeneratingRoute {
  std::shared_ptr<const ApiContext> context;
  std::string name;
  ApiDialect dialect;
  GeneratingAction action;

  void answer(const HttpRequest& request, const RequestInfo& info, const Writer& writer) const {
    try {
      action(request, info, writer);
    } catch (const ApiError& error) {
      context->observer.on_failure(failure_label(error.kind()));
      answer_error(*writer, for_clients(*context, error), dialect);
    } catch (...) {
      context->observer.on_failure("generation");
      throw;
    }
  }
};

}  // namespace

HttpHandler plain_handler(ApiDialect dialect, ApiAction action) {
  return [dialect, action = std::move(action)](const HttpRequest& request, const Writer& writer) {
    try {
      action(request, writer);
    } catch (const ApiError& error) {
      answer_error(*writer, error, dialect);
    }
  };
}

HttpHandler worker_handler(std::shared_ptr<const ApiContext> context, ApiDialect dialect,
                           ApiAction action) {
  return
      [context = std::move(context), dialect, answer = plain_handler(dialect, std::move(action))](
          HttpRequest request, const Writer& writer) {
        answer_where_due(*context, dialect, std::move(request), writer, answer, [] {});
      };
}

HttpHandler generating_handler(std::shared_ptr<const ApiContext> context, std::string route,
                               ApiDialect dialect, GeneratingAction action) {
  const auto shared = std::make_shared<const GeneratingRoute>(
      GeneratingRoute{std::move(context), std::move(route), dialect, std::move(action)});
  return [shared](HttpRequest request, const Writer& writer) {
    RequestInfo info;
    info.route = shared->name;
    info.dialect = shared->dialect;
    info.tenant = request.tenant;
    info.arrival = std::chrono::steady_clock::now();
    RequestObserver& observer = shared->context->observer;
    observer.on_request(info.route);
    const auto answer = [shared, info](const HttpRequest& taken, const Writer& to) {
      shared->answer(taken, info, to);
    };
    answer_where_due(*shared->context, shared->dialect, std::move(request), writer, answer,
                     [&] { observer.on_failure(failure_label(ErrorKind::kOverloaded)); });
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
