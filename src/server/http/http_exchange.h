// One response on its way from the threads of handlers to the thread of its connection.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/http/http.h"

namespace lorax {

// What the request says about the form of its response.
struct ResponseTerms {
  bool http11 = true;
  bool keep_alive = true;
  bool head = false;  // the request is HEAD: no body
  std::string path;   // for the shape of an error
  std::string request_id;
  size_t max_queued_bytes = 0;  // of a response in parts, beside what is being sent
};

// The handlers' side may be called from any thread, the connection's side from its thread only.
class HttpExchange {
 public:
  // `wake` is called, from any thread and with a lock held, when take() has something to give
  // after it had nothing, and when the queue has run over. It must only schedule a call of take(),
  // must not throw, and is not called after detach() and disconnect().
  HttpExchange(ResponseTerms terms, std::function<void()> wake);

  // --- Handlers' side: see ResponseWriter ---
  void respond(HttpResponse response);
  void begin(int status, std::vector<std::pair<std::string, std::string>> headers,
             std::string content_type);
  void write(std::string bytes);
  void finish();
  void on_disconnect(std::function<void()> callback);
  void note(const std::function<void(RequestNote&)>& change);
  // The writer is gone.
  void abandon() noexcept;

  // --- Connection's side ---
  enum class Progress {
    kOpen,      // there may be more
    kComplete,  // the bytes taken are the last
    kCut,       // the response cannot be completed: the connection must be closed
  };
  // Moves what is queued to `bytes`, which it clears.
  Progress take(std::string& bytes);
  // The queue has run over: the response cannot be completed, however much of it is being sent.
  bool has_overrun() const;
  // Queues bytes that mean nothing, to see whether they arrive: "100 Continue" before the response,
  // a comment inside an event stream. False where neither is possible.
  bool queue_sign_of_life();
  // The response has been sent.
  void detach();
  // The client is gone. Runs the callback, if the response has not ended.
  void disconnect();
  // The connection will be closed after this response.
  void close_after();

  bool keeps_alive() const;
  bool has_ended() const;  // though it may not have been sent
  bool is_event_stream() const;
  RequestNote take_note();
  // 0 before there is a response.
  int status() const;

 private:
  enum class Stage { kWaiting, kBegun, kEnded };

  // With the lock held. Those that throw, for want of memory, have changed nothing of the queue.
  void wake();
  // So that appending as many bytes does not throw.
  void make_room(size_t bytes);
  void append_body(std::string_view bytes);
  std::string make_head(int status, const std::vector<std::pair<std::string, std::string>>& headers,
                        std::string_view content_type, std::optional<uint64_t> body_length);

  mutable std::mutex mutex_;
  ResponseTerms terms_;
  std::function<void()> wake_;  // empty: detached
  std::function<void()> on_disconnect_;
  std::string queue_;
  RequestNote note_;
  Stage stage_ = Stage::kWaiting;
  int status_ = 0;
  bool chunked_ = false;
  bool event_stream_ = false;
  bool bodyless_ = false;      // a status or a method without a body
  bool dropping_ = false;      // what is written from here on has no reader
  bool cut_ = false;           // the response ends before its end
  bool disconnected_ = false;  // disconnect() has been called
  bool awake_ = false;         // the connection is going to call take()
};

// The ResponseWriter of an exchange.
std::shared_ptr<ResponseWriter> make_writer(std::shared_ptr<HttpExchange> exchange);

}  // namespace lorax
