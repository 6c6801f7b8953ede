#include "server/api/api_error.h"

#include <fmt/format.h>

#include "base/check.h"
#include "formats/json_writer.h"
#include "server/http/http_error.h"

namespace lorax {
namespace {

struct ErrorForm {
  ErrorKind kind;
  int lorax_status;
  std::string_view lorax_type;
  std::string_view lorax_prefix;
  int openai_status;
  std::string_view openai_type;
  std::string_view openai_code;  // "": null
  std::string_view label;
};

constexpr std::string_view kValidationPrefix = "Input validation error: ";
constexpr std::string_view kGenerationPrefix = "Request failed during generation: Server error: ";
constexpr std::string_view kInvalid = "invalid_request_error";

// In the order of ErrorKind.
constexpr ErrorForm kForms[] = {
    {ErrorKind::kBadJson, 400, "bad_request", "", 400, kInvalid, "", "bad_request"},
    {ErrorKind::kValidation, 422, "validation", kValidationPrefix, 400, kInvalid, "", "validation"},
    {ErrorKind::kUnknownModel, 424, "generation", kGenerationPrefix, 404, kInvalid,
     "model_not_found", "load_adapter"},
    {ErrorKind::kTemplate, 422, "template_error", "Failed applying chat template to inputs: ", 400,
     kInvalid, "template_error", "template"},
    {ErrorKind::kAdapter, 424, "generation", kGenerationPrefix, 424, "generation_error",
     "adapter_failed", "load_adapter"},
    {ErrorKind::kGeneration, 424, "generation", kGenerationPrefix, 424, "generation_error",
     "generation_failed", "generation"},
    {ErrorKind::kIncomplete, 500, "incomplete_generation", "", 500, "server_error",
     "incomplete_generation", "incomplete"},
    {ErrorKind::kTimeout, 504, "timeout", "", 504, "server_error", "timeout", "timeout"},
    {ErrorKind::kOverloaded, 429, "overloaded", "", 429, "rate_limit_error", "overloaded",
     "overloaded"},
    {ErrorKind::kStopping, 503, "unavailable", "", 503, "server_error", "unavailable", "dropped"},
    {ErrorKind::kNoMemory, 503, "unavailable", "", 503, "server_error", "out_of_memory",
     "out_of_memory"},
    {ErrorKind::kUnhealthy, 503, "healthcheck", "", 503, "server_error", "unhealthy", "generation"},
    {ErrorKind::kForbidden, 403, "forbidden", "", 403, kInvalid, "", "bad_request"},
};

const ErrorForm& form_of(ErrorKind kind) {
  const ErrorForm& form = kForms[static_cast<size_t>(kind)];
  LORAX_CHECK(form.kind == kind, "kForms is out of order");
  return form;
}

}  // namespace

void refuse(std::string_view field, const std::string& message) {
  throw ApiError(ErrorKind::kValidation, message, std::string(field));
}

ApiError no_memory_error() { return {ErrorKind::kNoMemory, std::string(kOutOfMemoryMessage)}; }

bool ended_by_itself(const GenerationEnd& end) {
  return end.reason == FinishReason::kLength || end.reason == FinishReason::kEosToken ||
         end.reason == FinishReason::kStopSequence;
}

ApiError error_of(const GenerationEnd& end) {
  switch (end.reason) {
    case FinishReason::kTimedOut:
      return {ErrorKind::kTimeout,
              "Request timed out; ask for fewer tokens, or start the server with a larger "
              "--max-request-time"};
    case FinishReason::kFailed:
      if (end.failure == FailureKind::kMemory) return no_memory_error();
      return {end.failure == FailureKind::kAdapter ? ErrorKind::kAdapter : ErrorKind::kGeneration,
              end.error};
    default:
      return {ErrorKind::kIncomplete, "Incomplete generation"};
  }
}

std::string error_body(const ApiError& error, ApiDialect dialect) {
  const ErrorForm& form = form_of(error.kind());
  JsonWriter json;
  json.begin_object();
  if (dialect == ApiDialect::kLorax) {
    json.field("error", fmt::format("{}{}", form.lorax_prefix, error.what()));
    json.field("error_type", form.lorax_type);
  } else {
    json.key("error").begin_object();
    json.field("message", std::string_view(error.what()));
    json.field("type", form.openai_type);
    json.key("param");
    error.param().empty() ? json.null() : json.value(error.param());
    json.key("code");
    form.openai_code.empty() ? json.null() : json.value(form.openai_code);
    json.end_object();
  }
  json.end_object();
  return json.take();
}

HttpResponse error_response(const ApiError& error, ApiDialect dialect) {
  HttpResponse response;
  response.status = status_of(error.kind(), dialect);
  if (error.kind() == ErrorKind::kOverloaded || error.kind() == ErrorKind::kStopping ||
      error.kind() == ErrorKind::kNoMemory) {
    response.headers.emplace_back("Retry-After", std::to_string(error.retry_after().count()));
  }
  response.body = error_body(error, dialect);
  return response;
}

int status_of(ErrorKind kind, ApiDialect dialect) {
  const ErrorForm& form = form_of(kind);
  return dialect == ApiDialect::kLorax ? form.lorax_status : form.openai_status;
}

void note_error(ResponseWriter& writer, const ApiError& error) {
  writer.note([&](RequestNote& note) {
    note.error = fmt::format("{}: {}", failure_label(error.kind()), error.what());
  });
}

std::string_view failure_label(ErrorKind kind) { return form_of(kind).label; }

}  // namespace lorax
