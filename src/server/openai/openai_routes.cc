#include "server/openai/openai_routes.h"

#include <utility>

#include "server/openai/chat_response.h"
#include "server/openai/completion_response.h"

namespace lorax {
namespace {

using Writer = std::shared_ptr<ResponseWriter>;

template <typename Body>
Body read_body(const FieldTable<Body>& table, const HttpRequest& request) {
  const boost::json::object object = parse_body(request.body);
  Body body;
  read_fields(table, object, body);
  take_unread(
      object, FieldPlace::kRequest, "",
      [&](std::string_view name) { return has_field(table, name); }, body.ignored);
  return body;
}

// Streams `events`, or answers with what `build` makes of an answer and the generations.
template <typename Answer, typename Build, typename Events>
PlannedResponse respond(const ApiContext& context, const OpenAiFields& body, RequestInfo info,
                        const Writer& writer, Headers headers, Answer answer,
                        std::vector<GenerationRequest> generations, Build build, Events events) {
  std::shared_ptr<ResponseTask> task;
  if (body.stream) {
    task = std::make_shared<StreamResponse>(context, std::move(info), writer, std::move(headers),
                                            events(std::move(answer)));
  } else {
    task = std::make_shared<WholeResponse>(
        context, std::move(info), writer,
        [answer = std::move(answer), headers = std::move(headers), build](
            std::vector<Generation>& ended, const RequestReport& report) {
          return build(answer, headers, ended, report);
        });
  }
  return {std::move(task), std::move(generations)};
}

PlannedResponse complete(const ApiContext& context, const FieldTable<CompletionBody>& table,
                         CompletionBody body, RequestInfo info, const Writer& writer) {
  const OpenAiFields shared = body;
  CompletionPlan plan = plan_completion(context, table, std::move(body), info.tenant.get());
  finish_validation(info, plan.adapter.name);
  return respond(context, shared, std::move(info), writer,
                 early_headers(context.settings, plan.characters, plan.adapter, shared.ignored),
                 completion_answer(context, plan, shared.include_usage),
                 std::move(plan.generations), completion_response, completion_events);
}

PlannedResponse chat(const ApiContext& context, const FieldTable<ChatBody>& table, ChatBody body,
                     RequestInfo info, const Writer& writer) {
  ChatPlan plan = plan_chat(context, table, body, info.tenant.get());
  finish_validation(info, plan.adapter.name);
  return respond(context, body, std::move(info), writer,
                 early_headers(context.settings, plan.characters, plan.adapter, plan.ignored),
                 chat_answer(context, plan, body.include_usage), std::move(plan.generations),
                 chat_response, chat_events);
}

}  // namespace

void add_openai_routes(const std::shared_ptr<const ApiContext>& context,
                       std::vector<ApiRoute>& routes) {
  const auto add = [&]<typename Body>(const char* path, FieldTable<Body> table, auto plan) {
    const auto shared = std::make_shared<const FieldTable<Body>>(std::move(table));
    const auto read = [context, shared, plan](const HttpRequest& request) {
      Body body = read_body(*shared, request);
      std::string adapter = named_model(*context, body, request.tenant.get());
      return ReadRequest{std::move(adapter), [context, shared, plan, body = std::move(body)](
                                                 RequestInfo info, const Writer& writer) {
                           return plan(*context, *shared, body, std::move(info), writer);
                         }};
    };
    routes.push_back({"POST", path, generating_handler(context, path, ApiDialect::kOpenAi, read)});
  };
  add("/v1/completions", completion_fields(context->settings), complete);
  add("/v1/chat/completions", chat_fields(context->settings), chat);
}

}  // namespace lorax
