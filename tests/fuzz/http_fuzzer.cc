// A connection's bytes from foreign hands, as far as they go without a socket: parser with limits,
// router, response. The first byte says in which pieces they come.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/json.hpp>

#include "base/check.h"
#include "server/api/router.h"
#include "server/http/http_error.h"
#include "server/http/http_exchange.h"
#include "server/http/http_parser.h"
#include "server/http/sse.h"
#include "server/http/url.h"

namespace {

using namespace lorax;
namespace http = boost::beast::http;

HttpLimits small_limits() {
  HttpLimits limits;
  limits.header_bytes = 1024;
  limits.body_bytes = 512;
  return limits;
}

const Router& router() {
  static const Router* const instance = [] {
    RouterOptions options;
    options.keys = std::make_shared<ApiKeys>("key");
    auto* made = new Router(options);
    // Repeats as much foreign text as a handler could.
    const auto echo = [](HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
      HttpResponse response = error_response(request.path, 400, request.body);
      response.headers = request.headers;
      response.content_type = request.query;
      query_parameter(request.query, "a");
      writer->respond(std::move(response));
    };
    made->add("GET", "/", echo, RouteAccess::kOpen);
    made->add("POST", "/*", echo, RouteAccess::kOpen);
    made->add("GET", "/v1/models", echo);
    made->add(
        "GET", "/stream",
        [](HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
          begin_event_stream(*writer, request.headers);
          writer->write(sse_event(request.query));
          writer->finish();
        },
        RouteAccess::kOpen);
    return made;
  }();
  return *instance;
}

// What is sent must be one response: no more, no less, and any error in it JSON.
void check_response(const std::string& bytes, bool head) {
  http::response_parser<http::string_body> parser;
  parser.eager(true);
  parser.header_limit(1 << 20);
  parser.skip(head);
  boost::beast::error_code error;
  const size_t taken = parser.put(boost::asio::buffer(bytes), error);
  LORAX_CHECK(!error, "{} in {}", error.message(), bytes);
  LORAX_CHECK(parser.is_done() && taken == bytes.size(), "{} of {}", taken, bytes);
  const std::string& body = parser.get().body();
  if (parser.get().result_int() >= 400 && !head) boost::json::parse(body);
}

void answer(HttpRequest request, bool http11) {
  ResponseTerms terms;
  terms.http11 = http11;
  terms.head = request.method == "HEAD";
  terms.path = request.path;
  terms.request_id = request.request_id;
  terms.max_queued_bytes = 1 << 20;
  const bool head = terms.head;
  const auto exchange = std::make_shared<HttpExchange>(std::move(terms), [] {});
  router()(std::move(request), make_writer(exchange));
  std::string bytes;
  LORAX_CHECK(exchange->take(bytes) == HttpExchange::Progress::kComplete);
  // Without chunks, only the end of the connection ends a stream.
  if (http11) check_response(bytes, head);
}

// The requests of a connection, as its own loop takes them; how each looked, for comparison.
std::vector<std::string> serve(std::string_view bytes, size_t piece, bool answers) {
  std::vector<std::string> seen;
  auto parser = std::make_unique<HttpParser>(small_limits());
  std::string rest;
  while (!bytes.empty()) {
    rest += bytes.substr(0, piece);
    bytes.remove_prefix(std::min(piece, bytes.size()));
    while (!rest.empty()) {
      const size_t taken = parser->put(rest);
      LORAX_CHECK(taken <= rest.size());
      rest.erase(0, taken);
      if (parser->state() == HttpParser::State::kFailed) {
        boost::json::parse(
            error_response(parser->request().path, parser->error_status(), parser->error_message())
                .body);
        return seen;
      }
      if (parser->state() != HttpParser::State::kDone) break;
      const bool http11 = parser->is_http11();
      const bool keep_alive = parser->keep_alive();
      HttpRequest request = parser->take_request();
      LORAX_CHECK(request.body.size() <= small_limits().body_bytes);
      LORAX_CHECK(!request.request_id.empty() && !request.path.empty());
      seen.push_back(request.method + " " + request.path + "?" + request.query + " " +
                     request.body);
      if (answers) answer(std::move(request), http11);
      if (!keep_alive) return seen;
      parser = std::make_unique<HttpParser>(small_limits());
    }
    LORAX_CHECK(rest.size() <= small_limits().header_bytes + piece);
  }
  return seen;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t piece = data[0] == 0 ? bytes.size() + 1 : data[0];
  const std::vector<std::string> in_pieces = serve(bytes, piece, /*answers=*/true);
  LORAX_CHECK(in_pieces == serve(bytes, bytes.size() + 1, /*answers=*/false),
              "the requests depend on how they arrive");
  return 0;
}
