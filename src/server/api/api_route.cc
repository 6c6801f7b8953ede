#include "server/api/api_route.h"

#include <fmt/format.h>

#include <new>
#include <optional>
#include <string_view>
#include <utility>

#include "server/api/adapter_request.h"

namespace lorax {

namespace {

using Writer = std::shared_ptr<ResponseWriter>;

void answer_error(ResponseWriter& writer, const ApiError& error, ApiDialect dialect) {
  note_error(writer, error);
  writer.respond(error_response(error, dialect));
}

// Of bodies that are read on a worker, before it is known whose they are.
constexpr std::string_view kLongBodies = "/long bodies";

ApiError late_error(bool begun, std::chrono::milliseconds time) {
  const double seconds = std::chrono::duration<double>(time).count();
  if (!begun) return {ErrorKind::kOverloaded, "Model is overloaded"};
  return {
      ErrorKind::kTimeout,
      fmt::format("the request was not ready within {} s: the adapter's folder does not answer, "
                  "or its chat is too long",
                  seconds)};
}

struct GeneratingRoute {
  std::shared_ptr<const ApiContext> context;
  std::string name;
  GeneratingAction read;
};

// One request of a route that generates, on its way through the workers to the engine.
class Preparation : public std::enable_shared_from_this<Preparation> {
 public:
  Preparation(std::shared_ptr<const GeneratingRoute> route, RequestInfo info, Writer writer)
      : route_(std::move(route)), info_(std::move(info)), writer_(std::move(writer)) {
    deadline_ = info_.arrival + route_->context->settings.preparation_time;
  }

  // Reads the body here.
  void read(const HttpRequest& request) {
    answering([&] {
      auto read = std::make_shared<ReadRequest>(route_->read(request));
      const WorkerLane lane = lane_of(read->adapter);
      post(lane, [self = shared_from_this(), read](Claim& claim) { self->plan(*read, claim); });
    });
  }

  // Reads it on a worker.
  void read_later(HttpRequest request) {
    answering([&] {
      post({std::string(kLongBodies), "", false},
           [self = shared_from_this(), request = std::move(request)](Claim& claim) {
             if (claim.take()) self->read(request);
           });
    });
  }

  // Before all else.
  void refuse_for_want_of_memory() { fail(no_memory_error()); }

 private:
  void post(const WorkerLane& lane, std::function<void(Claim&)> run) {
    const FairPlaces::Answer answer = route_->context->workers.try_run(
        {.tenant = info_.tenant == nullptr ? "" : info_.tenant->name,
         .flow = lane.flow,
         .place = lane.place,
         .run = std::move(run),
         .deadline = deadline_,
         .late = [self = shared_from_this()](bool begun) {
           self->fail(late_error(begun, self->route_->context->settings.preparation_time));
         }});
    if (answer.taken) return;
    fail(ApiError(ErrorKind::kOverloaded, "Model is overloaded")
             .set_retry_after(answer.retry_after));
  }

  void plan(const ReadRequest& read, Claim& claim) {
    std::optional<PlannedResponse> planned;
    try {
      planned = read.plan(info_, writer_);
    } catch (...) {
      if (claim.take()) answering([] { throw; });
      return;
    }
    if (!claim.take()) return;
    answering([&] { ResponseTask::start(planned->task, std::move(planned->generations)); });
  }

  template <typename Action>
  void answering(const Action& action) {
    try {
      action();
    } catch (const ApiError& error) {
      fail(error);
    } catch (const std::bad_alloc&) {
      fail(no_memory_error());
    } catch (...) {
      route_->context->observer.on_failure("generation");
      throw;
    }
  }

  void fail(const ApiError& error) {
    route_->context->observer.on_failure(failure_label(error.kind()));
    answer_error(*writer_, for_clients(*route_->context, error), info_.dialect);
  }

  const std::shared_ptr<const GeneratingRoute> route_;
  const RequestInfo info_;
  const Writer writer_;
  std::chrono::steady_clock::time_point deadline_;
};

}  // namespace

HttpHandler plain_handler(ApiDialect dialect, ApiAction action) {
  return [dialect, action = std::move(action)](const HttpRequest& request, const Writer& writer) {
    try {
      action(request, writer);
    } catch (const ApiError& error) {
      answer_error(*writer, error, dialect);
    } catch (const std::bad_alloc&) {
      answer_error(*writer, no_memory_error(), dialect);
    }
  };
}

WorkerLane lane_of(const std::string& adapter) {
  if (adapter == kBaseModelId) return {};
  // Longer ones are no names.
  std::string flow = adapter.substr(0, 2 * AdapterDirectory::kMaxNameBytes);
  const bool merged = flow.find(',') != std::string::npos;
  std::string place = merged ? flow : flow.substr(0, flow.find('/'));
  return {std::move(flow), std::move(place), false};
}

HttpHandler worker_handler(std::shared_ptr<const ApiContext> context, ApiDialect dialect,
                           WorkerLane lane, ApiAnswer answer) {
  const auto shared = std::make_shared<const ApiAnswer>(std::move(answer));
  return [context = std::move(context), dialect, lane = std::move(lane), shared](
             HttpRequest request, const Writer& writer) {
    const std::chrono::milliseconds time = context->settings.preparation_time;
    const FairPlaces::Answer place = context->workers.try_run(
        {.tenant = request.tenant == nullptr ? "" : request.tenant->name,
         .flow = lane.flow,
         .place = lane.place,
         .run =
             [shared, writer, dialect, request = std::move(request)](Claim& claim) {
               try {
                 HttpResponse response = (*shared)(request);
                 if (claim.take()) writer->respond(std::move(response));
               } catch (const ApiError& error) {
                 if (claim.take()) answer_error(*writer, error, dialect);
               } catch (const std::bad_alloc&) {
                 if (claim.take()) answer_error(*writer, no_memory_error(), dialect);
               }
             },
         .deadline = WorkerPool::Clock::now() + time,
         .late = [writer, dialect,
                  time](bool begun) { answer_error(*writer, late_error(begun, time), dialect); },
         .always = lane.always});
    if (place.taken) return;
    const ApiError error =
        ApiError(ErrorKind::kOverloaded, "Model is overloaded").set_retry_after(place.retry_after);
    answer_error(*writer, error, dialect);
  };
}

HttpHandler generating_handler(std::shared_ptr<const ApiContext> context, std::string route,
                               ApiDialect dialect, GeneratingAction read) {
  const auto shared = std::make_shared<const GeneratingRoute>(
      GeneratingRoute{std::move(context), std::move(route), std::move(read)});
  return [shared, dialect](HttpRequest request, const Writer& writer) {
    RequestInfo info;
    info.route = shared->name;
    info.dialect = dialect;
    info.tenant = request.tenant;
    info.arrival = std::chrono::steady_clock::now();
    const auto preparation = std::make_shared<Preparation>(shared, info, writer);
    shared->context->observer.on_request(info.route);
    // New work would take what is left from the requests that run.
    if (!shared->context->settings.has_memory()) return preparation->refuse_for_want_of_memory();
    if (request.body.size() <= kShortBody) return preparation->read(request);
    preparation->read_later(std::move(request));
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
