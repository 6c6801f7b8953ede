// Which handler a request goes to, and what is checked before: method, API key, content type. A
// Router is an HttpHandler; all its answers are JSON (http_error.h).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/api/api_keys.h"
#include "server/http/cors.h"
#include "server/http/http.h"

namespace lorax {

// Who may call a route when the server has API keys. Open are those that orchestrators, load
// balancers, scrapers and people who look for the documentation call, as none of them has a key
// (/health, /ping, /startup, GET /, /metrics, /docs, /api-doc/openapi.json). Whatever generates,
// lists or changes something needs the key.
enum class RouteAccess { kOpen, kKey };

struct RouterOptions {
  CorsOptions cors;
  // Accepted as `Authorization: Bearer <key>`; null or none: every route is open.
  std::shared_ptr<const ApiKeys> keys;
  // Names by which clients may call the server, in the Host header: "api.example.org", with any
  // port; "api.example.org:8000", with that one; "*.example.org", all below. None: any. (A page
  // whose own name has been made to point at this server is one with it for a browser.)
  std::vector<std::string> allowed_hosts;
};

class Router {
 public:
  // Throws Error for options that cannot work.
  explicit Router(RouterOptions options = {});

  // `path` is matched exactly, or, if it ends in "/*", against all paths below it (the longest such
  // route wins, after exact ones). GET routes answer HEAD too: the transport leaves out the body.
  // The body of a POST must be declared as JSON, else the client gets 415.
  // Precondition: the route does not exist.
  void add(std::string_view method, std::string_view path, HttpHandler handler,
           RouteAccess access = RouteAccess::kKey);

  // Answers 403 for hosts that are not allowed, 404, 405 with Allow, OPTIONS, 401 and 415; hands on
  // the rest, with its tenant. On open routes who has no key is a tenant that sees no adapter. A
  // handler that throws is answered with 500 by the transport.
  void operator()(HttpRequest request, std::shared_ptr<ResponseWriter> writer) const;

 private:
  struct Route {
    HttpHandler handler;
    RouteAccess access = RouteAccess::kKey;
  };
  using Methods = std::map<std::string, Route, std::less<>>;

  const Methods* find(std::string_view path) const;
  // Null if the request has no key, or none that is known.
  std::shared_ptr<const Tenant> tenant_of(const HttpRequest& request) const;
  bool allows_host(const HttpRequest& request) const;

  Cors cors_;
  std::shared_ptr<const ApiKeys> keys_;
  std::vector<std::string> allowed_hosts_;
  std::map<std::string, Methods, std::less<>> exact_;
  std::map<std::string, Methods, std::less<>> below_;  // "/v1/models/" for "/v1/models/*"
};

}  // namespace lorax
