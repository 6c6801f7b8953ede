#include "load_client.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string_view>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

namespace lorax {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

Clock::duration to_duration(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

tcp::endpoint find_host(asio::io_context& io, const LoadPlan& plan) {
  tcp::resolver resolver(io);
  error_code error;
  const auto found = resolver.resolve(plan.host, plan.port, error);
  if (error || found.empty()) {
    throw std::runtime_error("cannot find the host " + plan.host + ": " + error.message());
  }
  const tcp::endpoint endpoint = found.begin()->endpoint();
  if (!plan.allow_remote && !endpoint.address().is_loopback()) {
    throw std::runtime_error(plan.host + " is not this machine; --allow-remote allows it");
  }
  return endpoint;
}

// Finds the events in a body that comes in pieces. Blocks without data (comments) do not count.
class EventCounter {
 public:
  // Calls `on_event` for each event that the bytes complete.
  template <typename Function>
  void feed(std::string_view bytes, Function&& on_event) {
    for (char c : bytes) {
      if (c == '\r') continue;
      if (c != '\n') {
        if (column_ < kData.size()) is_data_ &= c == kData[column_];
        ++column_;
        continue;
      }
      if (column_ == 0) {
        if (std::exchange(has_data_, false)) on_event();
      } else if (is_data_ && column_ >= kData.size()) {
        has_data_ = true;
      }
      column_ = 0;
      is_data_ = true;
    }
  }

 private:
  static constexpr std::string_view kData = "data:";
  size_t column_ = 0;
  bool is_data_ = true;
  bool has_data_ = false;
};

class Load {
 public:
  explicit Load(const LoadPlan& plan) : plan_(plan), endpoint_(find_host(io_, plan)) {
    const std::string head = (plan.bodies.empty() ? "GET " : "POST ") + plan.path +
                             " HTTP/1.1\r\nhost: " + plan.host + ":" + plan.port + "\r\n" +
                             lines_of(plan.headers);
    if (plan.bodies.empty()) messages_.push_back(head + "\r\n");
    for (const std::string& body : plan.bodies) {
      messages_.push_back(head + "content-type: application/json\r\ncontent-length: " +
                          std::to_string(body.size()) + "\r\n\r\n" + body);
    }
  }

  LoadResult run() {
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < plan_.connections; ++i) asio::co_spawn(io_, connection(), asio::detached);
    if (plan_.requests == 0) {
      io_.run_for(to_duration(plan_.seconds));
    } else {
      io_.run();
    }
    result_.elapsed = seconds_between(start, Clock::now());
    return std::move(result_);
  }

 private:
  static std::string lines_of(const std::vector<std::string>& headers) {
    std::string lines;
    for (const std::string& header : headers) lines += header + "\r\n";
    return lines;
  }

  bool more() const { return plan_.requests == 0 || started_ < plan_.requests; }

  asio::awaitable<void> connection() {
    while (more()) {
      const auto socket = std::make_shared<tcp::socket>(io_);
      auto [error] = co_await socket->async_connect(endpoint_, kAwait);
      if (!error) {
        socket->set_option(tcp::no_delay(true));
        boost::beast::flat_buffer buffer;
        while (more() && co_await request(socket, buffer)) co_await pause();
        continue;
      }
      ++result_.errors["cannot connect: " + error.message()];
      if (plan_.requests != 0) ++started_;  // or a server that is away would hold us for ever
      asio::steady_timer retry(io_, std::chrono::milliseconds(100));
      co_await retry.async_wait(kAwait);
    }
  }

  asio::awaitable<void> pause() {
    if (plan_.pause <= 0) co_return;
    asio::steady_timer timer(
        io_, to_duration(std::uniform_real_distribution<double>(0, plan_.pause)(random_)));
    co_await timer.async_wait(kAwait);
  }

  // One request; false if the connection cannot take another.
  asio::awaitable<bool> request(std::shared_ptr<tcp::socket> socket,
                                boost::beast::flat_buffer& buffer) {
    const std::string& message = messages_[started_++ % messages_.size()];
    const Clock::time_point start = Clock::now();
    asio::steady_timer timeout(io_, to_duration(plan_.timeout));
    timeout.async_wait([socket](error_code error) {
      error_code ignored;
      if (!error) socket->close(ignored);
    });
    auto [write_error, written] =
        co_await asio::async_write(*socket, asio::buffer(message), kAwait);
    if (write_error) {
      ++result_.errors["cannot send: " + write_error.message()];
      co_return false;
    }
    http::response_parser<http::string_body> parser;
    parser.body_limit(boost::none);
    parser.eager(true);
    EventCounter counter;
    std::optional<Clock::time_point> last_event;
    while (true) {
      error_code error;
      if (buffer.size() > 0) buffer.consume(parser.put(buffer.cdata(), error));
      if (error && error != http::error::need_more) {
        ++result_.errors["bad response: " + error.message()];
        co_return false;
      }
      take_events(parser, counter, start, last_event);
      if (parser.is_done()) break;
      auto [read_error, count] =
          co_await socket->async_read_some(buffer.prepare(size_t{64} << 10), kAwait);
      if (read_error) {
        ++result_.errors["response cut short: " + read_error.message()];
        co_return false;
      }
      buffer.commit(count);
      result_.bytes += count;
    }
    const unsigned status = parser.get().result_int();
    if (status == 200) {
      ++result_.requests;
      result_.latencies.push_back(seconds_between(start, Clock::now()));
    } else {
      ++result_.errors["status " + std::to_string(status)];
    }
    co_return parser.keep_alive();
  }

  // Looks at the body that has come and forgets it.
  void take_events(http::response_parser<http::string_body>& parser, EventCounter& counter,
                   Clock::time_point start, std::optional<Clock::time_point>& last_event) {
    std::string& body = parser.get().body();
    if (!parser.is_header_done() || body.empty()) return;
    const Clock::time_point now = Clock::now();
    counter.feed(body, [&] {
      ++result_.events;
      if (last_event) {
        result_.event_gaps.push_back(seconds_between(*last_event, now));
      } else {
        result_.first_events.push_back(seconds_between(start, now));
      }
      last_event = now;
    });
    body.clear();
  }

  const LoadPlan& plan_;
  asio::io_context io_{1};
  const tcp::endpoint endpoint_;
  std::vector<std::string> messages_;
  uint64_t started_ = 0;
  std::minstd_rand random_;
  LoadResult result_;
};

}  // namespace

LoadResult run_load(const LoadPlan& plan) { return Load(plan).run(); }

double percentile(std::vector<double>& values, double p) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  const auto index = static_cast<size_t>(std::lround(p * static_cast<double>(values.size() - 1)));
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(index), values.end());
  return values[index];
}

}  // namespace lorax
