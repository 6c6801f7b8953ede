#include "server/http/http_parser.h"

#include <algorithm>

#include <fmt/format.h>
#include <boost/algorithm/string/predicate.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include "server/http/http_wire.h"
#include "server/http/url.h"

namespace lorax {

namespace http = boost::beast::http;

class HttpParser::Beast : public http::request_parser<http::string_body> {};

namespace {

std::string to_string(boost::beast::string_view view) { return {view.data(), view.size()}; }

}  // namespace

HttpParser::Failure HttpParser::failure_of(boost::system::error_code error,
                                           bool line_complete) const {
  if (error == http::error::header_limit) {
    if (!line_complete) {
      return {414, fmt::format("the request line is longer than {} bytes", limits_.header_bytes)};
    }
    return {431, fmt::format("the headers are longer than {} bytes", limits_.header_bytes)};
  }
  if (error == http::error::body_limit) {
    return {413, fmt::format("the body is larger than {} bytes", limits_.body_bytes)};
  }
  if (error == http::error::bad_version) {
    return {400, "the request line must end with HTTP/1.1 or HTTP/1.0, after one space"};
  }
  return {400, fmt::format("not a well-formed HTTP request: {}", error.message())};
}

HttpParser::HttpParser(const HttpLimits& limits)
    : limits_(limits), beast_(std::make_unique<Beast>()) {
  beast_->header_limit(static_cast<uint32_t>(limits.header_bytes));
  beast_->body_limit(limits.body_bytes);
}

HttpParser::~HttpParser() = default;

size_t HttpParser::put(std::string_view bytes) {
  size_t taken = 0;
  if (state_ == State::kStart) {
    // RFC 9112, 2.2: empty lines before the request line are passed over.
    while (bytes.substr(taken).starts_with("\r\n")) taken += 2;
    if (taken == bytes.size() || bytes.substr(taken) == "\r") return taken;
    state_ = State::kHeader;
  }
  boost::beast::error_code error;
  while (taken < bytes.size() && !error) {
    // Stops at the end of the headers, which are looked at before the body is read.
    beast_->eager(state_ == State::kBody);
    std::string_view rest = bytes.substr(taken);
    if (state_ == State::kHeader) rest = within_header_limits(rest);
    const bool is_cut = rest.size() < bytes.size() - taken;
    size_t used = 0;
    if (!rest.empty()) used = beast_->put(boost::asio::buffer(rest.data(), rest.size()), error);
    taken += used;
    if (error && error != http::error::need_more) {
      const bool line_complete = take_request_line() || bytes.find("\r\n", taken) != bytes.npos;
      fail(failure_of(error, line_complete));
      return taken;
    }
    if (state_ == State::kHeader) {
      header_bytes_ += used;
      header_lines_ += static_cast<size_t>(std::ranges::count(rest.substr(0, used), '\n'));
      if (beast_->is_header_done()) {
        take_header();
      } else if (is_cut && (error || used == 0)) {
        fail_header_limit(rest.substr(used));
      }
    }
    if (state_ == State::kFailed) return taken;
    if (state_ == State::kBody && beast_->is_done()) {
      state_ = State::kDone;
      return taken;
    }
  }
  // The line of a chunk's size, or a trailer.
  if (state_ == State::kBody && bytes.size() - taken > limits_.header_bytes) {
    fail({431, fmt::format("a chunk's header is longer than {} bytes", limits_.header_bytes)});
  }
  return taken;
}

bool HttpParser::expects_continue() const {
  return state_ == State::kBody && is_http11() && request_.header("expect").has_value();
}

bool HttpParser::is_http11() const { return beast_->get().version() >= 11; }

bool HttpParser::keep_alive() const { return beast_->keep_alive(); }

HttpRequest HttpParser::take_request() {
  request_.body = std::move(beast_->get().body());
  return std::move(request_);
}

void HttpParser::fail(Failure failure) {
  state_ = State::kFailed;
  failure_ = std::move(failure);
}

// As many of the bytes as may still belong to the headers. Beast counts neither the fields nor,
// where reads have other borders than lines, all bytes.
std::string_view HttpParser::within_header_limits(std::string_view bytes) const {
  const std::string_view part = bytes.substr(0, limits_.header_bytes - header_bytes_);
  // The request line, the fields and the empty line.
  size_t lines = limits_.header_fields + 2 - header_lines_;
  for (size_t end = part.find('\n'); end != part.npos; end = part.find('\n', end + 1)) {
    if (--lines == 0) return part.substr(0, end + 1);
  }
  return part;
}

void HttpParser::fail_header_limit(std::string_view rest) {
  if (header_lines_ == 0 && rest.find("\r\n") == rest.npos) {
    return fail(
        {414, fmt::format("the request line is longer than {} bytes", limits_.header_bytes)});
  }
  take_request_line();
  fail({431, fmt::format("the headers are longer than {} bytes, or more than {}",
                         limits_.header_bytes, limits_.header_fields)});
}

bool HttpParser::take_request_line() {
  const auto& message = beast_->get();
  if (message.target().empty()) return false;
  request_.method = to_string(message.method_string());
  std::optional<RequestTarget> target = parse_request_target(to_string(message.target()));
  if (target) {
    request_.path = std::move(target->path);
    request_.query = std::move(target->query);
  }
  return true;
}

// Copies the headers when they are complete: what a trailer adds later is not among them.
void HttpParser::take_header() {
  state_ = State::kBody;
  take_request_line();
  for (const auto& field : beast_->get()) {
    request_.headers.emplace_back(to_string(field.name_string()), to_string(field.value()));
  }
  if (std::optional<Failure> failure = fault_of_header()) return fail(std::move(*failure));
  const std::optional<std::string_view> id = request_.header("x-request-id");
  request_.request_id = id && is_harmless_request_id(*id) ? std::string(*id) : make_request_id();
}

std::optional<HttpParser::Failure> HttpParser::fault_of_header() const {
  if (request_.path.empty()) {
    return Failure{400, "the request's target must be a path such as /health, in valid UTF-8"};
  }
  const auto& message = beast_->get();
  const size_t hosts = message.count(http::field::host);
  if (hosts > 1 || (hosts == 0 && is_http11())) {
    return Failure{400, "an HTTP/1.1 request must have one header Host"};
  }
  if (const auto encoding = request_.header("transfer-encoding")) {
    if (!is_http11()) return Failure{400, "Transfer-Encoding needs HTTP/1.1"};
    // Whatever else: we would not find the end of the body, and a request could hide in it.
    if (!boost::iequals(*encoding, "chunked")) {
      return Failure{501, "of transfer encodings, only chunked is understood"};
    }
  }
  if (const auto expect = request_.header("expect")) {
    if (!boost::iequals(*expect, "100-continue")) {
      return Failure{417, "of expectations, only 100-continue is understood"};
    }
  }
  return std::nullopt;
}

}  // namespace lorax
