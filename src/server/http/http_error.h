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

// 503, with Retry-After: an allocation that this request needs has failed.
HttpResponse out_of_memory_response(std::string_view path);

// What clients are told then.
inline constexpr std::string_view kOutOfMemoryMessage =
    "the server is out of memory for this request; try again later, or ask for less";

}  // namespace lorax
