// One response and the generations that it is made of.
//
// The engine's sinks own the task, the task owns the response's writer, and what the writer calls
// when the client has gone owns neither: nothing is left once the engine has ended the generations,
// whoever else has gone before.
//
// The generations of a response end together: where one fails, those left are cancelled. So it is
// where there is no memory for what the engine says: the response then ends with that error, or, if
// not even that can be said, is cut short.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "server/api/api_context.h"
#include "server/api/api_error.h"
#include "server/api/tenant.h"
#include "server/http/http.h"

namespace lorax {

// What is known of a request when it goes to the engine.
struct RequestInfo {
  std::string_view route;
  ApiDialect dialect = ApiDialect::kLorax;
  std::string adapter;                   // as the client named it; "" for the base model
  std::shared_ptr<const Tenant> tenant;  // whose API key it has; null where there are none
  std::chrono::steady_clock::time_point arrival;
  std::chrono::nanoseconds validation{0};
};

// A generation as its sink has seen it.
struct Generation {
  std::vector<TokenInfo> prompt;  // if prompt_logprobs was asked for
  std::vector<GeneratedToken> tokens;
  std::string text;  // without the stop string
  GenerationEnd end;

  // Of its tokens; -infinity without tokens.
  double mean_logprob() const;
};

class ResponseTask : public std::enable_shared_from_this<ResponseTask> {
 public:
  ResponseTask(const ApiContext& context, RequestInfo info, std::shared_ptr<ResponseWriter> writer);
  virtual ~ResponseTask();

  // Queues the requests and lets the task answer. Throws ApiError, with nothing answered and the
  // requests cancelled, if the service does not take all of them.
  static void start(const std::shared_ptr<ResponseTask>& task,
                    std::vector<GenerationRequest> requests);

  // From the engine, for the generation of request `index`.
  void take_prompt(size_t index, std::vector<TokenInfo> tokens) noexcept;
  void take_token(size_t index, GeneratedToken token) noexcept;
  void take_end(size_t index, GenerationEnd end) noexcept;

 protected:
  // All are called one after the other, from the first on.
  virtual void opened(size_t generations) = 0;
  virtual void on_prompt(size_t index, std::vector<TokenInfo> tokens) = 0;
  virtual void on_token(size_t index, GeneratedToken token) = 0;
  // A generation has ended by itself.
  virtual void on_end(size_t index, GenerationEnd end) = 0;
  // All have. The last call, unless failed() is.
  virtual void all_ended(const RequestReport& report) = 0;
  // One of them has ended otherwise; the last call.
  virtual void failed(const ApiError& error) = 0;

  ResponseWriter& writer() { return *writer_; }
  const RequestInfo& info() const { return info_; }

 private:
  class Cancellation;
  enum class State { kStarting, kOpen, kDone };
  using Clock = std::chrono::steady_clock;

  // Runs the event now, or as soon as start() has succeeded; never once the task is done.
  template <typename Event>
  void deliver(Event event) noexcept;
  // With the lock held, where memory was short.
  void break_off() noexcept;
  void note_start(const std::vector<GenerationRequest>& requests);
  void note_end(const GenerationEnd& end);
  void submit(const std::shared_ptr<ResponseTask>& self, std::vector<GenerationRequest>& requests);
  // Throws ApiError if memory was short for what has come before.
  void open(size_t generations);
  void drop();
  void finish_one(size_t index, GenerationEnd end);
  void observe_token(size_t index);
  void add_to_report(const GenerationEnd& end);
  // Takes the tenant's places, or throws ApiError.
  void take_places(std::vector<GenerationRequest>& requests);
  void spend(int64_t tokens) const;

  GenerationService& service_;
  const AdapterDirectory& adapters_;
  const bool shares_prefixes_;
  RequestObserver& observer_;
  RequestInfo info_;
  std::shared_ptr<ResponseWriter> writer_;
  const std::shared_ptr<Cancellation> cancellation_;
  std::mutex mutex_;  // guards all below
  State state_ = State::kStarting;
  std::vector<std::function<void()>> early_;  // came before start() was through
  size_t running_ = 0;
  std::vector<Clock::time_point> last_token_;  // of each generation
  RequestReport report_;
  TenantPlaces places_;
};

// Collects all generations and then answers with what `build` makes of them: on a worker, if that
// is much, since the engine's thread has all others to serve.
class WholeResponse final : public ResponseTask {
 public:
  using Build =
      std::function<HttpResponse(std::vector<Generation>& generations, const RequestReport&)>;
  WholeResponse(const ApiContext& context, RequestInfo info, std::shared_ptr<ResponseWriter> writer,
                Build build)
      : ResponseTask(context, std::move(info), std::move(writer)),
        workers_(context.workers),
        build_(std::move(build)) {}

 private:
  void opened(size_t generations) override { generations_.resize(generations); }
  void on_prompt(size_t index, std::vector<TokenInfo> tokens) override;
  void on_token(size_t index, GeneratedToken token) override;
  void on_end(size_t index, GenerationEnd end) override;
  void all_ended(const RequestReport& report) override;
  void failed(const ApiError& error) override;
  void answer(const RequestReport& report);

  WorkerPool& workers_;
  Build build_;
  std::vector<Generation> generations_;
};

// How a response looks as server-sent events. Each function gives whole events, or "".
class EventFormat {
 public:
  virtual ~EventFormat() = default;
  // Before all else.
  virtual std::string opening() { return ""; }
  virtual std::string prompt(size_t index, std::vector<TokenInfo> tokens) = 0;
  virtual std::string token(size_t index, GeneratedToken token) = 0;
  virtual std::string end(size_t index, const GenerationEnd& end) = 0;
  // After all generations.
  virtual std::string closing(const RequestReport& report) = 0;
  // What goes out before the event of an error.
  virtual std::string interruption() { return ""; }
};

// Writes events as the tokens come.
class StreamResponse final : public ResponseTask {
 public:
  using Headers = std::vector<std::pair<std::string, std::string>>;
  StreamResponse(const ApiContext& context, RequestInfo info,
                 std::shared_ptr<ResponseWriter> writer, Headers headers,
                 std::unique_ptr<EventFormat> format)
      : ResponseTask(context, std::move(info), std::move(writer)),
        headers_(std::move(headers)),
        format_(std::move(format)) {}

 private:
  void opened(size_t generations) override;
  void on_prompt(size_t index, std::vector<TokenInfo> tokens) override;
  void on_token(size_t index, GeneratedToken token) override;
  void on_end(size_t index, GenerationEnd end) override;
  void all_ended(const RequestReport& report) override;
  void failed(const ApiError& error) override;
  void write(std::string events);

  Headers headers_;
  std::unique_ptr<EventFormat> format_;
};

}  // namespace lorax
