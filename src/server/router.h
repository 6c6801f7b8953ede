// Which handler a request goes to, and what is checked before: method, API key, content type. A
// Router is an HttpHandler; all its answers are JSON (http_error.h).
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "server/cors.h"
#include "server/http.h"

namespace lorax {

// Who may call a route when the server has API keys. Open are those that orchestrators, load
// balancers, scrapers and people who look for the documentation call, as none of them has a key
// (/health, /ping, /startup, GET /, /metrics, /docs, /api-doc/openapi.json). Whatever generates,
// lists or changes something needs the key.
enum class RouteAccess { kOpen, kKey };

struct RouterOptions {
  CorsOptions cors;
  // Accepted as `Authorization: Bearer <key>`; none: every route is open.
  std::vector<std::string> api_keys;
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

  // Answers 404, 405 with Allow, OPTIONS, 401 and 415; hands on the rest. A handler that throws is
  // answered with 500 by the transport.
  void operator()(HttpRequest request, std::shared_ptr<ResponseWriter> writer) const;

 private:
  struct Route {
    HttpHandler handler;
    RouteAccess access = RouteAccess::kKey;
  };
  using Methods = std::map<std::string, Route, std::less<>>;

  const Methods* find(std::string_view path) const;
  bool has_key(const HttpRequest& request) const;

  Cors cors_;
  std::vector<std::string> api_keys_;
  std::map<std::string, Methods, std::less<>> exact_;
  std::map<std::string, Methods, std::less<>> below_;  // "/v1/models/" for "/v1/models/*"
};

}  // namespace lorax
