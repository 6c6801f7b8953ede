// Errors of the transport and of routing as clients see them: JSON, in the shape of the API that
// the path belongs to.
//
//   LoRAX:   {"error": message, "error_type": type}
//   OpenAI:  {"error": {"message": message, "type": type, "param": null, "code": code}}, on /v1/
#pragma once

#include <string>
#include <string_view>

#include "server/http/http.h"

namespace lorax {

// `message` says what to change; it may quote foreign text, as it is made valid UTF-8 here. Types
// and codes follow from the status.
HttpResponse error_response(std::string_view path, int status, std::string_view message);

}  // namespace lorax
