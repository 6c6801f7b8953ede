// From the bytes of a connection to requests (RFC 9112), within limits. Beast's parser does the
// work; here are the rules that it leaves to the server. Knows no sockets.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <boost/system/error_code.hpp>

#include "server/http/http.h"

namespace lorax {

struct HttpLimits {
  // Of the request line and all headers together, whatever the borders of the reads.
  size_t header_bytes = size_t{32} << 10;
  size_t header_fields = 256;
  size_t body_bytes = size_t{2} << 20;
};

// One request. Feed it bytes until it is done or has failed; then take another parser.
class HttpParser {
 public:
  enum class State {
    kStart,   // no byte of the request has come
    kHeader,  // in the request line or the headers
    kBody,    // headers are complete
    kDone,    // take_request() gives the request
    kFailed,  // error_status() and error_message() say why; the connection must be closed
  };

  explicit HttpParser(const HttpLimits& limits);
  ~HttpParser();
  HttpParser(const HttpParser&) = delete;
  HttpParser& operator=(const HttpParser&) = delete;

  // Takes what it can of the bytes and returns how many; the rest must be given again with what
  // comes after it. The rest of an unfinished request is never longer than the limit of headers.
  // Precondition: neither done nor failed.
  size_t put(std::string_view bytes);

  State state() const { return state_; }

  // In kBody: the client waits for "100 Continue" before it sends the body.
  bool expects_continue() const;
  // From kBody on: the client speaks HTTP/1.1, and lets the connection open after the response.
  bool is_http11() const;
  bool keep_alive() const;
  // Method and path as far as they are known, for errors and logs; empty if they are not.
  const HttpRequest& request() const { return request_; }

  // Precondition: kDone. Once.
  HttpRequest take_request();

  // Preconditions: kFailed.
  int error_status() const { return failure_.status; }
  const std::string& error_message() const { return failure_.message; }

 private:
  class Beast;
  struct Failure {
    int status = 0;
    std::string message;
  };

  Failure failure_of(boost::system::error_code error, bool line_complete) const;
  void fail(Failure failure);
  void fail_header_limit(std::string_view rest);
  std::string_view within_header_limits(std::string_view bytes) const;
  bool take_request_line();
  void take_header();
  std::optional<Failure> fault_of_header() const;

  const HttpLimits limits_;
  std::unique_ptr<Beast> beast_;
  State state_ = State::kStart;
  size_t header_bytes_ = 0;  // that have been parsed
  size_t header_lines_ = 0;  // among them, with the request line
  HttpRequest request_;
  Failure failure_;
};

}  // namespace lorax
