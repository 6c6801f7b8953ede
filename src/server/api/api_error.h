// How a request fails: one table of kinds, each with its status and names in LoRAX's and in
// OpenAI's API.
#pragma once

#include <chrono>
#include <stdexcept>
#include <string>
#include <string_view>

#include "engine/schedule/generation_service.h"
#include "server/http/http.h"

namespace lorax {

enum class ErrorKind {
  kBadJson,       // the body is not JSON
  kValidation,    // a field is missing, of a wrong type or out of range
  kUnknownModel,  // no such model or adapter
  kTemplate,      // the chat template refuses the messages
  kAdapter,       // the adapter cannot be loaded
  kGeneration,    // the request failed while it ran
  kIncomplete,    // it was ended from outside
  kTimeout,       // it took longer than --max-request-time
  kOverloaded,    // too many requests at once
  kStopping,      // the server takes no more requests
  kNoMemory,      // an allocation has failed that it needs
  kUnhealthy,     // the engine or its device has failed
  kForbidden,     // the server has been started without it
};

// Thrown by what checks a request, and caught where its route begins. what() is one line without
// control characters that says what to change.
class ApiError : public std::runtime_error {
 public:
  // `param`: the field that is wrong, "" for none.
  ApiError(ErrorKind kind, const std::string& message, std::string param = "")
      : std::runtime_error(message), kind_(kind), param_(std::move(param)) {}

  ErrorKind kind() const { return kind_; }
  const std::string& param() const { return param_; }
  // When it is worth to try again, of kOverloaded, kStopping and kNoMemory.
  std::chrono::seconds retry_after() const { return retry_after_; }
  ApiError& set_retry_after(std::chrono::seconds time) {
    retry_after_ = time;
    return *this;
  }

 private:
  ErrorKind kind_;
  std::string param_;
  std::chrono::seconds retry_after_{1};
};

// The validation error of a field.
[[noreturn]] void refuse(std::string_view field, const std::string& message);

ApiError no_memory_error();

// What a generation that did not end by itself says. Precondition: it was cancelled, timed out or
// failed.
ApiError error_of(const GenerationEnd& end);
// Whether it did.
bool ended_by_itself(const GenerationEnd& end);

enum class ApiDialect { kLorax, kOpenAi };

// {"error": message, "error_type": type}, or {"error": {message, type, param, code}}.
std::string error_body(const ApiError& error, ApiDialect dialect);
// The same as a response, with Retry-After where trying again helps.
HttpResponse error_response(const ApiError& error, ApiDialect dialect);
int status_of(ErrorKind kind, ApiDialect dialect);
// Tells the access log what has become of the request.
void note_error(ResponseWriter& writer, const ApiError& error);
// The label `err` of lorax_request_failure.
std::string_view failure_label(ErrorKind kind);

}  // namespace lorax
