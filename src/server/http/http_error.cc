#include "server/http/http_error.h"

#include <boost/json.hpp>

#include "base/utf8.h"

namespace lorax {
namespace {

struct ErrorNames {
  int status;
  std::string_view lorax_type;
  std::string_view openai_type;
  std::string_view openai_code;  // empty: null
};

constexpr ErrorNames kErrors[] = {
    {401, "unauthorized", "invalid_request_error", "invalid_api_key"},
    {403, "forbidden", "invalid_request_error", ""},
    {404, "not_found", "invalid_request_error", "not_found"},
    {405, "method_not_allowed", "invalid_request_error", "method_not_allowed"},
    {408, "timeout", "invalid_request_error", "timeout"},
    {429, "overloaded", "rate_limit_error", "rate_limit_exceeded"},
    {503, "overloaded", "server_error", "overloaded"},
};

ErrorNames names_of(int status) {
  for (const ErrorNames& names : kErrors) {
    if (names.status == status) return names;
  }
  if (status < 500) return {status, "validation", "invalid_request_error", ""};
  return {status, "internal", "server_error", ""};
}

}  // namespace

HttpResponse error_response(std::string_view path, int status, std::string_view message) {
  const ErrorNames names = names_of(status);
  const std::string text = replace_invalid_utf8(message);
  boost::json::object body;
  if (path.starts_with("/v1/")) {
    boost::json::value code;
    if (!names.openai_code.empty()) code = names.openai_code;
    body["error"] = boost::json::object{
        {"message", text}, {"type", names.openai_type}, {"param", nullptr}, {"code", code}};
  } else {
    body["error"] = text;
    body["error_type"] = names.lorax_type;
  }
  HttpResponse response;
  response.status = status;
  response.body = boost::json::serialize(body);
  return response;
}

HttpResponse out_of_memory_response(std::string_view path) {
  HttpResponse response = error_response(path, 503, kOutOfMemoryMessage);
  response.headers.emplace_back("retry-after", "1");
  return response;
}

}  // namespace lorax
