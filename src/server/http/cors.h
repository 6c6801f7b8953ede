// Cross-origin requests (the Fetch standard, 3.2): which pages of other origins may call the API.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "server/http/http.h"

namespace lorax {

struct CorsOptions {
  std::vector<std::string> allow_origins = {"*"};
  std::vector<std::string> allow_methods = {"GET", "POST"};
  std::vector<std::string> allow_headers;  // none: whatever a preflight asks for
  std::vector<std::string> expose_headers;
  bool allow_credentials = false;
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

class Cors {
 public:
  // Throws Error for values that no header can hold, and for credentials with "*", which browsers
  // refuse.
  explicit Cors(CorsOptions options);

  // For every response; none if the request comes from no other origin or from one that is not
  // allowed.
  HttpHeaders response_headers(const HttpRequest& request) const;
  // For the response to a preflight request, beside those above; none if the origin is not allowed.
  HttpHeaders preflight_headers(const HttpRequest& request) const;
  static bool is_preflight(const HttpRequest& request);

 private:
  bool any_origin() const;
  bool allows(const HttpRequest& request) const;

  CorsOptions options_;
  std::string methods_;
  std::string headers_;
  std::string exposed_;
};

}  // namespace lorax
