// The HTTP/1.1 transport: listens, reads requests, hands them to one handler (a Router), sends what
// comes back. Handlers see http.h only.
//
// Threads: `threads` threads run everything; each connection is of one of them, so that what
// happens to it happens one after the other. Handlers are called there. A connection has one
// request at a time with its handler; pipelined ones wait in the socket and are answered in order.
//
// A client that goes while its response is pending is noticed at once, as a read is always under
// way. One that has only closed its sending side (shutdown(SHUT_WR), "half-closed") looks the same
// until something is sent to it. So the server sends what means nothing, "100 Continue" before the
// response or a comment inside an event stream: a client that has gone answers with a reset, one
// that waits gets its response. Where nothing of that kind can be sent (HTTP/1.0, a response in
// parts that is no event stream), a client that half-closes before its response is complete counts
// as gone. A host that vanishes without a word is noticed by TCP keep-alive, or when what it was
// sent stays unacknowledged for `write_timeout`.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "server/http/http.h"
#include "server/http/http_parser.h"

namespace lorax {

// One line of an access log.
struct AccessRecord {
  std::string method;  // empty if the request was not understood so far
  std::string path;
  std::string request_id;
  std::string client;  // address
  int status = 0;      // 499: the client went before there was a response
  uint64_t bytes = 0;  // sent, headers included
  bool complete = true;
  RequestNote note;                      // the handler's
  std::chrono::nanoseconds duration{0};  // from the complete request to the last byte sent
};

struct HttpServerOptions {
  std::string hostname = "127.0.0.1";
  uint16_t port = 3000;  // 0: any free one
  int threads = 1;

  HttpLimits limits;  // beyond: 431, 414, 413
  // Beyond it, a new connection takes the place of the one that has been idle for longest; if none
  // is idle it is answered with 503 and closed. Lowered to what the limit of open files allows,
  // which is raised as far as the process may.
  size_t max_connections = 4096;
  // From one address; further ones are answered with 503 and closed. 0: any.
  size_t max_connections_per_address = 0;
  // What a response in parts may have waiting for a client that reads slowly, beside what is being
  // sent; beyond it the client is disconnected.
  size_t max_queued_bytes = size_t{1} << 20;

  std::chrono::milliseconds header_timeout{10'000};  // from a request's first byte; then 408
  std::chrono::milliseconds body_timeout{60'000};    // from the end of the headers; then 408
  std::chrono::milliseconds idle_timeout{75'000};    // between requests; then the connection closes
  std::chrono::milliseconds write_timeout{30'000};   // without any progress
  std::chrono::milliseconds sse_keep_alive{15'000};  // without an event; then a comment is sent
  // How long to read on, after the last response, so that the client can read it.
  std::chrono::milliseconds linger_timeout{2'000};

  // Called on the threads of the transport; must not block for long. May be empty.
  std::function<void(const AccessRecord&)> access_log;
  // What went wrong inside the server, one line each.
  std::function<void(std::string_view)> error_log;
};

class HttpServer {
 public:
  // Listens when it returns. Throws Error if it cannot. `handler` is called from then on.
  HttpServer(HttpServerOptions options, HttpHandler handler);
  // stop(0). Not to be called by a handler.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  uint16_t port() const;
  size_t connections() const;  // open, without those that are told 503

  // From any thread. New connections are refused, idle ones closed; requests that are under way are
  // served, and their connections closed after it. Returns at once.
  void stop_accepting();
  // stop_accepting(), then waits until no connection is left, at most for `timeout`; disconnects
  // the rest (on_disconnect is called) and ends the threads. Not to be called by a handler.
  // Writers that are left may still be used; what is written is dropped.
  void stop(std::chrono::milliseconds timeout);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lorax
