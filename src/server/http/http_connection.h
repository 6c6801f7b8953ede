// One connection: reads requests, gives them to the handler one at a time, sends the responses.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>

#include "server/http/http_clock.h"
#include "server/http/http_exchange.h"
#include "server/http/http_loop.h"
#include "server/http/http_parser.h"
#include "server/http/http_server.h"

namespace lorax {

// All functions are called on the thread of the socket, except where it says otherwise.
// The client's, without its port; empty if it has gone already.
std::string address_of(const boost::asio::ip::tcp::socket& socket);

class HttpConnection final : public LoopMember,
                             public std::enable_shared_from_this<HttpConnection> {
 public:
  // Options, handler and functions must outlive the connection. `closed` is called once, when the
  // socket has been closed; whoever it tells holds the reference that keeps the connection alive.
  // `loop` is the socket's.
  HttpConnection(boost::asio::ip::tcp::socket socket, const HttpServerOptions& options,
                 const HttpHandler& handler, const std::function<void(HttpConnection&)>& closed,
                 HttpLoop& loop);

  // From any thread; each schedules its work on the socket's, without memory.
  void start() noexcept { schedule(Task::kOpen); }
  void refuse() noexcept { schedule(Task::kRefuse); }  // instead of start(): 503, and close
  void drain() noexcept {
    schedule(Task::kDrain);
  }  // closes when the request under way has been answered
  void abort() noexcept { schedule(Task::kDisconnect); }  // disconnects
  // Closes if no request is under way.
  void close_if_idle() noexcept { schedule(Task::kCloseIfIdle); }

  // Of a completion: the connection cannot go on.
  void handler_lost() noexcept { schedule(Task::kDisconnect); }

  // When it began to wait for a request, in ticks of the steady clock; 0 while one is under way.
  // From any thread.
  int64_t idle_since() const { return idle_since_.load(std::memory_order_relaxed); }

 private:
  using Clock = HttpClock;
  using Step = void (HttpConnection::*)();

  // Bits.
  enum class Task : unsigned {
    kOpen = 1,
    kRefuse = 2,
    kPump = 4,
    kDrain = 8,
    kCloseIfIdle = 16,
    kDisconnect = 32,
  };

  void schedule(Task task) noexcept;
  void wake_up() noexcept override;
  void report(std::string_view what, std::string_view message) noexcept;
  // A handler of this connection, guarded.
  template <typename Function>
  auto completion(Function function);
  template <typename Function, typename... Args>
  void guarded(Function function, Args... args) noexcept;

  // Requests.
  void open();
  void send_refusal();
  void read();
  void on_read(boost::system::error_code error, size_t bytes);
  void on_end_of_input();
  void parse();
  void dispatch();
  void reject(int status, const std::string& message);
  void begin_exchange(bool keep_alive);
  void check_half_closed();
  void watch_for_reset();
  void on_reset(boost::system::error_code error);

  // Responses.
  void pump();
  void write();
  void write_some();
  void on_write(boost::system::error_code error, size_t bytes);
  void response_sent();
  void log(bool complete) noexcept;

  // The end.
  void begin_drain();
  void close_idle();
  void set_idle();
  void linger();
  void disconnect() noexcept;
  void close();

  // Deadlines: setting one is cheap, as the timer is only touched when it would fire too late.
  void set_deadline(std::chrono::milliseconds timeout);
  void clear_deadline() { deadline_ = Clock::time_point::max(); }
  void arm_timer();
  void on_timer(boost::system::error_code error);
  void on_deadline();

  boost::asio::ip::tcp::socket socket_;
  HttpClock::Timer timer_;
  const HttpServerOptions& options_;
  const HttpHandler& handler_;
  const std::function<void(HttpConnection&)>& closed_callback_;
  HttpLoop& loop_;

  std::vector<char> received_;              // where a read goes
  boost::beast::flat_buffer in_;            // what the parser has not taken
  std::optional<HttpParser> parser_;        // of the request being received
  std::shared_ptr<HttpExchange> exchange_;  // of the request being answered
  std::string out_;                         // being sent
  size_t out_sent_ = 0;
  HttpExchange::Progress progress_ = HttpExchange::Progress::kOpen;  // after out_

  bool reading_ = false;
  bool writing_ = false;
  bool watching_ = false;
  bool input_ended_ = false;
  bool draining_ = false;
  bool lingering_ = false;
  bool closed_ = false;
  size_t lingered_bytes_ = 0;

  Clock::time_point deadline_ = Clock::time_point::max();
  Clock::time_point keep_alive_due_ = Clock::time_point::max();
  Clock::time_point timer_set_for_ = Clock::time_point::max();

  std::atomic<int64_t> idle_since_{0};
  std::atomic<unsigned> tasks_{0};  // scheduled
  AccessRecord record_;
  Clock::time_point request_start_;
};

}  // namespace lorax
