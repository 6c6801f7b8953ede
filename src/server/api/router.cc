#include "server/api/router.h"

#include <algorithm>

#include <fmt/format.h>
#include <boost/algorithm/string/case_conv.hpp>
#include <boost/algorithm/string/predicate.hpp>
#include <boost/algorithm/string/trim.hpp>

#include "base/check.h"
#include "base/error.h"
#include "formats/printable.h"
#include "server/http/http_error.h"

namespace lorax {
namespace {

// Who has no key.
const std::shared_ptr<const Tenant>& nobody() {
  static const auto tenant = std::make_shared<const Tenant>(
      Tenant{.name = {}, .adapters = std::vector<std::string>{}, .limits = {}});
  return tenant;
}

// Adds headers to whatever is answered.
class HeadersWriter final : public ResponseWriter {
 public:
  HeadersWriter(std::shared_ptr<ResponseWriter> writer, HttpHeaders headers)
      : writer_(std::move(writer)), headers_(std::move(headers)) {}
  void respond(HttpResponse response) override {
    add_to(response.headers);
    writer_->respond(std::move(response));
  }
  void begin(int status, HttpHeaders headers, std::string content_type) override {
    add_to(headers);
    writer_->begin(status, std::move(headers), std::move(content_type));
  }
  void write(std::string bytes) override { writer_->write(std::move(bytes)); }
  void finish() override { writer_->finish(); }
  void on_disconnect(std::function<void()> callback) override {
    writer_->on_disconnect(std::move(callback));
  }
  void note(const std::function<void(RequestNote&)>& change) override { writer_->note(change); }

 private:
  void add_to(HttpHeaders& headers) const {
    headers.insert(headers.end(), headers_.begin(), headers_.end());
  }

  const std::shared_ptr<ResponseWriter> writer_;
  const HttpHeaders headers_;
};

// "GET, HEAD, POST, OPTIONS"
template <typename Methods>
std::string allow_of(const Methods& methods) {
  std::string allow;
  for (const auto& [method, _] : methods) {
    allow += method + ", ";
    if (method == "GET") allow += "HEAD, ";
  }
  return allow + "OPTIONS";
}

// application/json and application/*+json, with any parameters.
bool is_json(std::string_view content_type) {
  std::string type(content_type.substr(0, content_type.find(';')));
  boost::algorithm::trim(type);
  return boost::iequals(type, "application/json") ||
         (boost::istarts_with(type, "application/") && boost::iends_with(type, "+json"));
}

std::optional<HttpResponse> fault_of_body(const HttpRequest& request) {
  const auto error = [&](std::string_view message) {
    return error_response(request.path, 415, message);
  };
  const auto type = request.header("content-type");
  if (!type) return error("the header Content-Type: application/json is missing");
  if (!is_json(*type)) {
    return error(fmt::format("Content-Type must be application/json, not {}", printable(*type)));
  }
  const auto encoding = request.header("content-encoding");
  if (encoding && !boost::iequals(*encoding, "identity")) {
    return error(fmt::format("Content-Encoding {} is not understood: send the body as it is",
                             printable(*encoding)));
  }
  return std::nullopt;
}

// "[::1]:3000" is "[::1]".
std::string without_port(const std::string& host) {
  const size_t colon = host.rfind(':');
  const size_t bracket = host.rfind(']');
  const bool has_port = colon != std::string::npos &&
                        (bracket == std::string::npos ? host.find(':') == colon : colon > bracket);
  return has_port ? host.substr(0, colon) : host;
}

HttpResponse no_content(HttpHeaders headers) {
  HttpResponse response;
  response.status = 204;
  response.headers = std::move(headers);
  return response;
}

}  // namespace

Router::Router(RouterOptions options)
    : cors_(std::move(options.cors)),
      keys_(std::move(options.keys)),
      allowed_hosts_(std::move(options.allowed_hosts)) {
  for (std::string& host : allowed_hosts_) {
    const bool sound = !host.empty() &&
                       std::ranges::all_of(host, [](char c) { return c > ' ' && c <= '~'; }) &&
                       host.find('/') == std::string::npos;
    if (!sound) fail("--allowed-host {}: give a name, such as api.example.org", printable(host));
    boost::algorithm::to_lower(host);
  }
}

void Router::add(std::string_view method, std::string_view path, HttpHandler handler,
                 RouteAccess access) {
  LORAX_CHECK(path.starts_with('/'), "route {}", path);
  const bool below = path.ends_with("/*");
  auto& routes = below ? below_ : exact_;
  const std::string key(below ? path.substr(0, path.size() - 1) : path);
  const bool added = routes[key].emplace(method, Route{std::move(handler), access}).second;
  LORAX_CHECK(added, "{} {} is there already", method, path);
}

void Router::operator()(HttpRequest request, std::shared_ptr<ResponseWriter> writer) const {
  HttpHeaders cors = cors_.response_headers(request);
  if (!cors.empty()) {
    writer = std::make_shared<HeadersWriter>(std::move(writer), std::move(cors));
  }
  const std::string& path = request.path;
  if (!allows_host(request)) {
    return writer->respond(error_response(
        path, 403,
        fmt::format("this server is not called {}; call it by a name of --allowed-host",
                    printable(request.header("host").value_or("")))));
  }
  if (Cors::is_preflight(request))
    return writer->respond(no_content(cors_.preflight_headers(request)));
  if (path == "*" && request.method == "OPTIONS") {
    return writer->respond(no_content({{"allow", "GET, HEAD, POST, OPTIONS"}}));
  }
  const Methods* methods = find(path);
  if (methods == nullptr) {
    return writer->respond(
        error_response(path, 404, fmt::format("there is no route {}", printable(path))));
  }
  if (request.method == "OPTIONS") {
    return writer->respond(no_content({{"allow", allow_of(*methods)}}));
  }
  const auto found = methods->find(request.method == "HEAD" ? "GET" : request.method);
  if (found == methods->end()) {
    HttpResponse response =
        error_response(path, 405,
                       fmt::format("{} takes {}, not {}", printable(path), allow_of(*methods),
                                   printable(request.method)));
    response.headers.emplace_back("allow", allow_of(*methods));
    return writer->respond(std::move(response));
  }
  const Route& route = found->second;
  const bool needs_key = keys_ != nullptr && !keys_->empty();
  if (needs_key) request.tenant = tenant_of(request);
  if (needs_key && request.tenant == nullptr && route.access == RouteAccess::kOpen) {
    request.tenant = nobody();
  }
  if (needs_key && request.tenant == nullptr) {
    HttpResponse response =
        error_response(path, 401, "give the API key as header: Authorization: Bearer <key>");
    response.headers.emplace_back("www-authenticate", "Bearer");
    return writer->respond(std::move(response));
  }
  if (request.method == "POST") {
    if (std::optional<HttpResponse> fault = fault_of_body(request)) {
      return writer->respond(std::move(*fault));
    }
  }
  route.handler(std::move(request), std::move(writer));
}

const Router::Methods* Router::find(std::string_view path) const {
  const auto exact = exact_.find(path);
  if (exact != exact_.end()) return &exact->second;
  const Methods* best = nullptr;
  size_t best_length = 0;
  for (const auto& [prefix, methods] : below_) {
    if (path.size() <= prefix.size() || prefix.size() <= best_length) continue;
    if (!path.starts_with(prefix)) continue;
    best = &methods;
    best_length = prefix.size();
  }
  return best;
}

std::shared_ptr<const Tenant> Router::tenant_of(const HttpRequest& request) const {
  constexpr std::string_view kScheme = "bearer ";
  const std::string_view given = request.header("authorization").value_or("");
  if (!boost::istarts_with(given, kScheme)) return nullptr;
  std::string key(given.substr(kScheme.size()));
  boost::algorithm::trim(key);
  return keys_->find(key);
}

bool Router::allows_host(const HttpRequest& request) const {
  if (allowed_hosts_.empty()) return true;
  std::string host(request.header("host").value_or(""));
  boost::algorithm::trim(host);
  boost::algorithm::to_lower(host);
  const std::string bare = without_port(host);
  return std::ranges::any_of(allowed_hosts_, [&](const std::string& allowed) {
    if (allowed.starts_with("*.")) return bare.ends_with(std::string_view(allowed).substr(1));
    return allowed == "*" || allowed == bare || allowed == host;
  });
}

}  // namespace lorax
