#include "server/lorax/generate_routes.h"

#include <utility>

#include "server/lorax/generate_request.h"
#include "server/lorax/generate_response.h"

namespace lorax {
namespace {

enum class Form { kObject, kStream, kCompat };

struct GenerateTables {
  FieldTable<GenerateBody> body;
  FieldTable<GenerateParameters> parameters;
};

PlannedResponse plan(const ApiContext& context, const GenerateTables& tables, Form form,
                     GenerateBody body, RequestInfo info,
                     const std::shared_ptr<ResponseWriter>& writer) {
  const bool stream = form == Form::kStream || body.stream;
  GeneratePlan plan =
      plan_generate(context, tables.parameters, std::move(body), stream, info.tenant.get());
  finish_validation(info, plan.adapter.name);

  GenerateAnswer answer = answer_of(context, plan, form == Form::kCompat);
  Headers headers = early_headers(context.settings, count_characters(answer.inputs), answer.adapter,
                                  plan.ignored);
  std::shared_ptr<ResponseTask> task;
  if (stream) {
    task = std::make_shared<StreamResponse>(context, std::move(info), writer, std::move(headers),
                                            generate_events(std::move(answer)));
  } else {
    task = std::make_shared<WholeResponse>(
        context, std::move(info), writer,
        [answer = std::move(answer), headers = std::move(headers)](
            std::vector<Generation>& generations, const RequestReport& report) {
          return generate_response(answer, headers, generations, report);
        });
  }
  return {std::move(task), std::move(plan.generations)};
}

}  // namespace

void add_generate_routes(const std::shared_ptr<const ApiContext>& context,
                         std::vector<ApiRoute>& routes) {
  const auto add = [&](const char* path, Form form) {
    const auto tables = std::make_shared<GenerateTables>(GenerateTables{
        generate_fields(context->settings, context->service.limits(), form == Form::kCompat),
        generate_parameters(context->settings, context->service.limits())});
    const auto read = [context, tables, form](const HttpRequest& request) {
      GenerateBody body;
      const boost::json::object object = parse_body(request.body);
      read_fields(tables->body, object, body);
      take_unread_fields(object, tables->body, tables->parameters, form == Form::kStream, body);
      std::string adapter =
          named_adapter(body.parameters, VisibleAdapters(context->adapters, request.tenant.get()));
      return ReadRequest{std::move(adapter),
                         [context, tables, form, body = std::move(body)](
                             RequestInfo info, const std::shared_ptr<ResponseWriter>& writer) {
                           return plan(*context, *tables, form, body, std::move(info), writer);
                         }};
    };
    routes.push_back({"POST", path, generating_handler(context, path, ApiDialect::kLorax, read)});
  };
  add("/", Form::kCompat);
  add("/invocations", Form::kCompat);
  add("/generate", Form::kObject);
  add("/generate_stream", Form::kStream);
}

}  // namespace lorax
