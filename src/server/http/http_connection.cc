#include "server/http/http_connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <exception>
#include <utility>

#include <fmt/format.h>
#include <boost/asio/buffer.hpp>

#include "base/out_of_memory.h"
#include "server/http/completion.h"
#include "server/http/http_error.h"
#include "server/http/http_wire.h"

namespace lorax {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

constexpr size_t kReadBytes = size_t{4} << 10;
constexpr size_t kReadBodyBytes = size_t{64} << 10;
// Pipelined requests that are kept while one is answered; the rest stays in the socket.
constexpr size_t kMaxPipelinedBytes = size_t{64} << 10;
constexpr size_t kMaxLingerBytes = size_t{64} << 20;

// Small writes go out at once; a host that has vanished is noticed while we only wait for it, and
// while it owes us acknowledgements.
void set_socket_options(asio::ip::tcp::socket& socket, std::chrono::milliseconds write_timeout) {
  error_code ignored;
  socket.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
  const auto set = [&](int option, int value) {
    ::setsockopt(socket.native_handle(), IPPROTO_TCP, option, &value, sizeof(value));
  };
  set(TCP_KEEPIDLE, 15);
  set(TCP_KEEPINTVL, 5);
  set(TCP_KEEPCNT, 3);
  set(TCP_USER_TIMEOUT, static_cast<int>(write_timeout.count()));
}

}  // namespace

std::string address_of(const asio::ip::tcp::socket& socket) {
  error_code error;
  const auto endpoint = socket.remote_endpoint(error);
  return error ? std::string() : endpoint.address().to_string(error);
}

HttpConnection::HttpConnection(asio::ip::tcp::socket socket, const HttpServerOptions& options,
                               const HttpHandler& handler,
                               const std::function<void(HttpConnection&)>& closed, HttpLoop& loop)
    : socket_(std::move(socket)),
      timer_(socket_.get_executor()),
      options_(options),
      handler_(handler),
      closed_callback_(closed),
      loop_(loop) {}

void HttpConnection::schedule(Task task) noexcept {
  const auto bit = static_cast<unsigned>(task);
  if (tasks_.fetch_or(bit) == 0) loop_.wake(shared_from_this());
}

void HttpConnection::wake_up() noexcept {
  const unsigned tasks = tasks_.exchange(0);
  const auto run = [&](Task task, Step step) {
    if ((tasks & static_cast<unsigned>(task)) != 0) guarded(step);
  };
  run(Task::kOpen, &HttpConnection::open);
  run(Task::kRefuse, &HttpConnection::send_refusal);
  run(Task::kPump, &HttpConnection::pump);
  run(Task::kDrain, &HttpConnection::begin_drain);
  run(Task::kCloseIfIdle, &HttpConnection::close_idle);
  run(Task::kDisconnect, &HttpConnection::disconnect);
}

template <typename Function>
auto HttpConnection::completion(Function function) {
  return Completion(shared_from_this(), [function](HttpConnection& self, auto... arguments) {
    self.guarded(function, arguments...);
  });
}

// Calls a function of this connection. What it throws (memory that ran out) costs the connection.
template <typename Function, typename... Args>
void HttpConnection::guarded(Function function, Args... args) noexcept {
  try {
    (this->*function)(args...);
  } catch (...) {
    const std::string message = message_of(std::current_exception());
    disconnect();
    report("connection lost: ", message);
  }
}

void HttpConnection::report(std::string_view what, std::string_view message) noexcept {
  try {
    if (options_.error_log) options_.error_log(fmt::format("{}{}", what, message));
  } catch (...) {  // out of memory: a line costs nobody anything
  }
}

// --- Requests --------------------------------------------------------------------------------

void HttpConnection::open() {
  if (closed_) return;
  set_socket_options(socket_, options_.write_timeout);
  record_.client = address_of(socket_);
  set_idle();
  read();
}

void HttpConnection::send_refusal() {
  if (closed_) return;
  set_socket_options(socket_, options_.write_timeout);
  record_.client = address_of(socket_);
  reject(503, "too many connections; try again later");
}

void HttpConnection::read() {
  if (closed_ || reading_ || input_ended_) return;
  if (exchange_ && in_.size() >= kMaxPipelinedBytes) return watch_for_reset();
  const bool in_body = parser_ && parser_->state() == HttpParser::State::kBody;
  const size_t room = in_body || lingering_ ? kReadBodyBytes : kReadBytes;
  if (received_.size() != room) received_ = std::vector<char>(room);
  reading_ = true;
  socket_.async_read_some(asio::buffer(received_), completion(&HttpConnection::on_read));
}

void HttpConnection::on_read(error_code error, size_t bytes) {
  reading_ = false;
  if (closed_) return;
  if (error == asio::error::eof) return on_end_of_input();
  if (error) return disconnect();
  if (lingering_) {
    lingered_bytes_ += bytes;
    if (lingered_bytes_ > kMaxLingerBytes) return close();
    return read();
  }
  in_.commit(asio::buffer_copy(in_.prepare(bytes), asio::buffer(received_, bytes)));
  if (exchange_) return read();
  parse();
}

void HttpConnection::on_end_of_input() {
  input_ended_ = true;
  if (lingering_) return close();
  if (exchange_) return check_half_closed();
  parse();
}

void HttpConnection::parse() {
  using State = HttpParser::State;
  if (!parser_) parser_.emplace(options_.limits);
  const State before = parser_->state();
  const auto bytes = in_.cdata();
  in_.consume(parser_->put({static_cast<const char*>(bytes.data()), bytes.size()}));
  const State state = parser_->state();
  if (state != State::kStart) idle_since_.store(0, std::memory_order_relaxed);
  if (state == State::kFailed) return reject(parser_->error_status(), parser_->error_message());
  if (state == State::kDone) return dispatch();
  if (input_ended_) {
    if (state == State::kStart) return close();
    return reject(400, "the request ended before it was complete");
  }
  if (state != before && state == State::kHeader) set_deadline(options_.header_timeout);
  if (state != before && state == State::kBody) {
    set_deadline(options_.body_timeout);
    if (parser_->expects_continue() && in_.size() == 0 && !writing_) {
      out_ = "HTTP/1.1 100 Continue\r\n\r\n";
      write();
    }
  }
  read();
}

void HttpConnection::dispatch() {
  begin_exchange(parser_->keep_alive());
  HttpRequest request = parser_->take_request();
  parser_.reset();
  const std::shared_ptr<ResponseWriter> writer = make_writer(exchange_);
  try {
    handler_(std::move(request), writer);
  } catch (...) {
    const std::exception_ptr error = std::current_exception();
    writer->respond(is_out_of_memory(error)
                        ? out_of_memory_response(record_.path)
                        : error_response(record_.path, 500, "the server failed on this request"));
    if (options_.error_log) {
      options_.error_log(fmt::format("{} {}: {}", record_.method, record_.path, message_of(error)));
    }
  }
  if (input_ended_) return check_half_closed();
  read();
}

// Answers without the handler, and closes.
void HttpConnection::reject(int status, const std::string& message) {
  begin_exchange(false);
  exchange_->respond(error_response(record_.path, status, message));
  parser_.reset();  // `message` may be part of it
  if (!input_ended_) read();
}

void HttpConnection::begin_exchange(bool keep_alive) {
  ResponseTerms terms;
  terms.keep_alive = keep_alive && !draining_;
  terms.max_queued_bytes = options_.max_queued_bytes;
  record_.method.clear();
  record_.path.clear();
  record_.request_id.clear();
  record_.bytes = 0;
  if (parser_) {
    const HttpRequest& request = parser_->request();
    record_.method = request.method;
    record_.path = request.path;
    record_.request_id = request.request_id;
    terms.http11 = parser_->is_http11();
    terms.head = request.method == "HEAD";
  }
  if (record_.request_id.empty()) record_.request_id = make_request_id();
  terms.path = record_.path;
  terms.request_id = record_.request_id;
  request_start_ = Clock::now();
  clear_deadline();
  if (in_.size() == 0 && in_.capacity() > kReadBodyBytes / 2) in_.shrink_to_fit();
  // The exchange forgets the function before this connection ends.
  exchange_ = std::make_shared<HttpExchange>(std::move(terms), [this] { schedule(Task::kPump); });
}

// The client has closed its sending side, at least (see http_server.h).
void HttpConnection::check_half_closed() {
  if (exchange_->queue_sign_of_life() || exchange_->has_ended()) return watch_for_reset();
  disconnect();
}

void HttpConnection::watch_for_reset() {
  if (watching_) return;
  watching_ = true;
  socket_.async_wait(asio::socket_base::wait_error, completion(&HttpConnection::on_reset));
}

void HttpConnection::on_reset(error_code error) {
  watching_ = false;
  if (!error) disconnect();
}

// --- Responses -------------------------------------------------------------------------------

void HttpConnection::pump() {
  if (closed_ || !exchange_) return;
  if (exchange_->has_overrun()) return disconnect();
  if (writing_) return;
  progress_ = exchange_->take(out_);
  if (!out_.empty()) return write();
  if (progress_ == HttpExchange::Progress::kCut) return disconnect();
  if (progress_ == HttpExchange::Progress::kComplete) response_sent();
}

void HttpConnection::write() {
  writing_ = true;
  out_sent_ = 0;
  if (exchange_) set_deadline(options_.write_timeout);
  write_some();
}

void HttpConnection::write_some() {
  socket_.async_write_some(asio::buffer(out_.data() + out_sent_, out_.size() - out_sent_),
                           completion(&HttpConnection::on_write));
}

void HttpConnection::on_write(error_code error, size_t bytes) {
  if (closed_) return;
  if (error) return disconnect();
  out_sent_ += bytes;
  record_.bytes += bytes;
  if (out_sent_ < out_.size()) {
    if (exchange_) set_deadline(options_.write_timeout);
    return write_some();
  }
  writing_ = false;
  if (!exchange_) return;  // "100 Continue" has been sent
  clear_deadline();
  if (progress_ == HttpExchange::Progress::kComplete) return response_sent();
  if (exchange_->is_event_stream()) {
    keep_alive_due_ = Clock::now() + options_.sse_keep_alive;
    arm_timer();
  }
  pump();
}

void HttpConnection::response_sent() {
  const bool keep_alive = exchange_->keeps_alive() && !draining_;
  log(true);
  exchange_->detach();
  exchange_.reset();
  keep_alive_due_ = Clock::time_point::max();
  progress_ = HttpExchange::Progress::kOpen;
  if (out_.capacity() > kReadBodyBytes) out_ = {};
  if (!keep_alive) return linger();
  set_idle();
  if (in_.size() != 0 || input_ended_) return parse();
  read();
}

void HttpConnection::log(bool complete) noexcept {
  if (!options_.access_log) return;
  record_.status = exchange_->status();
  if (record_.status == 0) record_.status = 499;
  record_.complete = complete;
  record_.note = exchange_->take_note();
  record_.duration = Clock::now() - request_start_;
  try {
    options_.access_log(record_);
  } catch (...) {  // a log that fails costs nobody an answer
  }
}

// --- The end ---------------------------------------------------------------------------------

void HttpConnection::begin_drain() {
  if (closed_) return;
  draining_ = true;
  if (exchange_) return exchange_->close_after();
  close_idle();
}

void HttpConnection::close_idle() {
  const bool idle = !parser_ || parser_->state() == HttpParser::State::kStart;
  if (idle && !exchange_ && !lingering_) close();
}

void HttpConnection::set_idle() {
  idle_since_.store(Clock::now().time_since_epoch().count(), std::memory_order_relaxed);
  set_deadline(options_.idle_timeout);
}

// Closing while the client still sends would reset the connection, and the client might never see
// the response. So only our side is closed, and the client's is read to its end.
void HttpConnection::linger() {
  if (input_ended_) return close();
  lingering_ = true;
  in_.consume(in_.size());
  error_code ignored;
  socket_.shutdown(asio::socket_base::shutdown_send, ignored);
  set_deadline(options_.linger_timeout);
  read();
}

// The client is gone, or must go.
void HttpConnection::disconnect() noexcept {
  if (closed_) return;
  const std::shared_ptr<HttpExchange> exchange = exchange_;
  if (exchange) log(false);
  close();
  if (!exchange) return;
  try {
    exchange->disconnect();
  } catch (...) {
    const std::string message = message_of(std::current_exception());
    report("on_disconnect: ", message);
  }
}

void HttpConnection::close() {
  if (closed_) return;
  closed_ = true;
  exchange_.reset();
  timer_.cancel();
  error_code ignored;
  socket_.close(ignored);
  closed_callback_(*this);
}

// --- Deadlines -------------------------------------------------------------------------------

void HttpConnection::set_deadline(std::chrono::milliseconds timeout) {
  deadline_ = Clock::now() + timeout;
  arm_timer();
}

void HttpConnection::arm_timer() {
  const Clock::time_point next = std::min(deadline_, keep_alive_due_);
  if (closed_ || next >= timer_set_for_) return;
  timer_set_for_ = next;
  timer_.expires_at(next);
  timer_.async_wait(completion(&HttpConnection::on_timer));
}

void HttpConnection::on_timer(error_code error) {
  if (closed_ || error) return;
  timer_set_for_ = Clock::time_point::max();
  const Clock::time_point now = Clock::now();
  if (now >= deadline_) {
    clear_deadline();
    on_deadline();
  } else if (now >= keep_alive_due_) {
    if (!writing_) exchange_->queue_sign_of_life();
    keep_alive_due_ = now + options_.sse_keep_alive;
  }
  arm_timer();
}

void HttpConnection::on_deadline() {
  if (lingering_) return close();
  if (exchange_) return disconnect();  // only writing has a deadline then
  if (!parser_ || parser_->state() == HttpParser::State::kStart) return close();
  const bool in_body = parser_->state() == HttpParser::State::kBody;
  reject(408, fmt::format("the {} did not arrive within {} ms", in_body ? "body" : "headers",
                          (in_body ? options_.body_timeout : options_.header_timeout).count()));
}

}  // namespace lorax
