// HTTP as the handlers of routes see it: a request, and where its response goes. The transport
// (http_server.h) is behind it, and so are tests.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lorax {

struct Tenant;  // tenant.h

struct HttpRequest {
  std::string method;  // "GET", "POST", ...
  std::string path;    // percent-decoded, without the query
  std::string query;   // as sent, without '?'
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  // Whose API key it has; null where there are no keys. The router's answer to who asks.
  std::shared_ptr<const Tenant> tenant;
  std::string request_id;  // the client's x-request-id or one made up; each response carries it

  // The first header of this name, in any case of letters.
  std::optional<std::string_view> header(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::vector<std::pair<std::string, std::string>> headers;  // beside what the transport sets
  std::string content_type = "application/json";
  std::string body;
};

// What the access log says of a request beside what the transport sees.
struct RequestNote {
  bool generates = false;  // those below that count and time count
  bool streamed = false;
  bool failed = false;  // by the server's fault, though its status may be 200
  std::string adapter;  // as the client named it
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  std::optional<std::chrono::nanoseconds> queue;        // until its first step
  std::optional<std::chrono::nanoseconds> first_token;  // from its arrival
  std::string finish;                                   // why the text ended
  std::string error;                                    // why there is none, or not all of it
};

// The one response to a request. All functions may be called from any thread, and none blocks: what
// is written is queued for the connection. Dropping the last reference without a response answers
// 500 (503 where memory is short); dropping it between begin() and finish() closes the connection,
// so that the client sees a response cut short. Calls after the response has ended do nothing, and
// neither does a second respond() or begin(). One that throws std::bad_alloc has done nothing;
// dropping the writer needs no memory: without any, the connection is closed.
class ResponseWriter {
 public:
  virtual ~ResponseWriter() = default;

  // A whole response; the last call.
  virtual void respond(HttpResponse response) = 0;

  // A response that comes in parts (chunked): begin, then any number of write(), then finish().
  // Each write() goes out at once, or together with others that wait. In a response of content
  // type text/event-stream each must be whole events: comments that keep the connection alive come
  // between them (sse.h).
  virtual void begin(int status, std::vector<std::pair<std::string, std::string>> headers,
                     std::string content_type) = 0;
  virtual void write(std::string bytes) = 0;
  virtual void finish() = 0;

  // `callback` is called once, from a thread of the transport, when the client has gone or reads
  // so slowly that its queue has run over; at once, by the caller, if that has happened already.
  // Not after the response has ended. What is written from then on is dropped.
  virtual void on_disconnect(std::function<void()> callback) = 0;

  // Calls `change`, at once and with a lock held. What it leaves is logged when the response has
  // been sent or the client has gone; changes after its last part are lost.
  virtual void note(const std::function<void(RequestNote&)>& change) = 0;
};

// Called on a thread of the transport, which serves other connections too: it must not block. What
// it throws is answered with 500, std::bad_alloc with 503.
using HttpHandler =
    std::function<void(HttpRequest request, std::shared_ptr<ResponseWriter> writer)>;

}  // namespace lorax
