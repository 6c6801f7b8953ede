#include "server/http/cors.h"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "formats/printable.h"

namespace lorax {
namespace {

void check_values(const std::vector<std::string>& values, std::string_view flag) {
  for (const std::string& value : values) {
    const bool sound = !value.empty() && std::ranges::none_of(value, [](char c) {
      return is_control(c) || c == ',' || c == ' ' || static_cast<unsigned char>(c) >= 0x80;
    });
    if (!sound) fail("{} {}: give one value without spaces each time", flag, printable(value));
  }
}

// Names of headers, separated by commas.
bool is_header_list(std::string_view text) {
  constexpr std::string_view kOthers = "!#$%&'*+-.^_`|~, ";
  return !text.empty() && std::ranges::all_of(text, [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           kOthers.find(c) != std::string_view::npos;
  });
}

bool contains(const std::vector<std::string>& values, std::string_view value) {
  return std::ranges::find(values, value) != values.end();
}

}  // namespace

Cors::Cors(CorsOptions options)
    : options_(std::move(options)),
      methods_(fmt::format("{}", fmt::join(options_.allow_methods, ", "))),
      headers_(fmt::format("{}", fmt::join(options_.allow_headers, ", "))),
      exposed_(fmt::format("{}", fmt::join(options_.expose_headers, ", "))) {
  check_values(options_.allow_origins, "--cors-allow-origin");
  check_values(options_.allow_methods, "--cors-allow-method");
  check_values(options_.allow_headers, "--cors-allow-header");
  check_values(options_.expose_headers, "--cors-expose-header");
  const bool wildcard = any_origin() || contains(options_.allow_methods, "*") ||
                        contains(options_.allow_headers, "*") ||
                        contains(options_.expose_headers, "*");
  if (options_.allow_credentials && wildcard) {
    fail("--cors-allow-credentials needs origins, methods and headers by name, not *");
  }
}

bool Cors::any_origin() const { return contains(options_.allow_origins, "*"); }

bool Cors::allows(const HttpRequest& request) const {
  const auto origin = request.header("origin");
  return origin && (any_origin() || contains(options_.allow_origins, *origin));
}

HttpHeaders Cors::response_headers(const HttpRequest& request) const {
  HttpHeaders headers;
  if (!any_origin()) headers.emplace_back("vary", "origin");  // for caches on the way
  if (!allows(request)) return headers;
  const std::string origin(*request.header("origin"));
  headers.emplace_back("access-control-allow-origin", any_origin() ? "*" : origin);
  if (options_.allow_credentials) headers.emplace_back("access-control-allow-credentials", "true");
  if (!exposed_.empty()) headers.emplace_back("access-control-expose-headers", exposed_);
  return headers;
}

HttpHeaders Cors::preflight_headers(const HttpRequest& request) const {
  if (!allows(request)) return {};
  HttpHeaders headers = {{"access-control-allow-methods", methods_}};
  if (!options_.allow_headers.empty()) {
    headers.emplace_back("access-control-allow-headers", headers_);
    return headers;
  }
  // By name: "*" would leave out authorization. Clients send headers of their own (x-stainless-os).
  headers.emplace_back("vary", "access-control-request-headers");
  const std::string_view asked = request.header("access-control-request-headers").value_or("");
  if (is_header_list(asked)) {
    headers.emplace_back("access-control-allow-headers", std::string(asked));
  }
  return headers;
}

bool Cors::is_preflight(const HttpRequest& request) {
  return request.method == "OPTIONS" && request.header("origin") &&
         request.header("access-control-request-method");
}

}  // namespace lorax
