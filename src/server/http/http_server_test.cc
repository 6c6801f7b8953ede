#include "server/http/http_server.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <boost/json.hpp>

#include "server/http/sse.h"
#include "server/http/testing/http_server_fixture.h"
#include "server/http/testing/test_client.h"

namespace lorax {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

// --- Requests and responses ------------------------------------------------------------------

TEST_F(HttpServerTest, AnswersAndKeepsTheConnection) {
  TestClient client(start());
  auto first = client.request(get("/a%20b?x=%31&y"));
  EXPECT_EQ(first.status, 200);
  EXPECT_EQ(first.body, "GET /a b?x=%31&y ");
  EXPECT_EQ(first.header("content-type"), "text/plain");
  EXPECT_FALSE(first.header("date").empty());
  EXPECT_EQ(first.header("x-request-id").size(), 16u);
  auto second = client.request(post("/p", "{\"a\":1}"));
  EXPECT_EQ(second.body, "POST /p? {\"a\":1}");
  EXPECT_NE(second.header("x-request-id"), first.header("x-request-id"));
}

TEST_F(HttpServerTest, RequestIdIsEchoedIfHarmless) {
  TestClient client(start());
  EXPECT_EQ(client.request(get("/", "X-Request-Id: abc-1\r\n")).header("x-request-id"), "abc-1");
  EXPECT_EQ(client.request(get("/", "X-Request-Id: a b\r\n")).header("x-request-id").size(), 16u);
  const std::string too_long = "X-Request-Id: " + std::string(129, 'a') + "\r\n";
  EXPECT_EQ(client.request(get("/", too_long)).header("x-request-id").size(), 16u);
}

TEST_F(HttpServerTest, ByteByByte) {
  TestClient client(start());
  for (char c : post("/slow", "body")) client.send({&c, 1});
  EXPECT_EQ(client.receive().body, "POST /slow? body");
}

TEST_F(HttpServerTest, PipelinedRequestsAreAnsweredInOrder) {
  TestClient client(start());
  std::string requests;
  for (int i = 0; i < 500; ++i) requests += post("/n", std::to_string(i));
  client.send(requests);
  for (int i = 0; i < 500; ++i) {
    ASSERT_EQ(client.receive().body, "POST /n? " + std::to_string(i));
  }
}

TEST_F(HttpServerTest, PipelinedRequestWaitsForTheOneBefore) {
  TestClient client(start());
  client.send(get("/hold") + get("/after"));
  auto writer = handler.held();
  EXPECT_EQ(client.receive_some(50), "");
  EXPECT_EQ(handler.calls, 1);
  writer->respond(text("held"));
  EXPECT_EQ(client.receive().body, "held");
  EXPECT_EQ(client.receive().body, "GET /after? ");
}

TEST_F(HttpServerTest, PipelinedBytesWaitInTheSocket) {
  const uint16_t port = start();
  TestClient client(port);
  client.send(get("/hold"));
  auto writer = handler.held();
  std::thread flood([&] { client.send(get("/x") + post("/big", std::string(1 << 20, 'x'))); });
  std::this_thread::sleep_for(milliseconds(100));
  EXPECT_EQ(handler.calls, 1);
  writer->respond(text("held"));
  EXPECT_EQ(client.receive().body, "held");
  EXPECT_EQ(client.receive().body, "GET /x? ");
  EXPECT_EQ(client.receive().body.size(), size_t{8} << 20);
  flood.join();
}

TEST_F(HttpServerTest, ChunkedBody) {
  TestClient client(start());
  client.send(
      "POST /c HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nTrailer: x-late\r\n\r\n");
  client.send("3;ext=1\r\nabc\r\n");
  client.send("A\r\n0123456789\r\n0\r\nx-late: 1\r\n\r\n");
  EXPECT_EQ(client.receive().body, "POST /c? abc0123456789");
  EXPECT_EQ(client.request(get("/next")).body, "GET /next? ");
}

TEST_F(HttpServerTest, ExpectContinue) {
  TestClient client(start());
  client.send("POST /e HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_EQ(client.receive_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.send("ok");
  EXPECT_EQ(client.receive().body, "POST /e? ok");
  // Too large: the client is told before it sends anything.
  client.send(
      "POST /e HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n");
  EXPECT_EQ(client.receive().status, 413);
}

TEST_F(HttpServerTest, HeadHasNoBody) {
  TestClient client(start());
  client.send("HEAD /h HTTP/1.1\r\nHost: t\r\n\r\n");
  auto response = client.receive(/*without_body=*/true);
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.header("content-length"), "9");
  EXPECT_EQ(client.request(get("/h")).body, "GET /h? ");
}

TEST_F(HttpServerTest, Http10) {
  const uint16_t port = start();
  TestClient closing(port);
  closing.send("GET /ten HTTP/1.0\r\n\r\n");
  EXPECT_TRUE(closing.receive_all().ends_with("GET /ten? "));
  TestClient keeping(port);
  auto response = keeping.request("GET /ten HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_EQ(response.header("connection"), "keep-alive");
  EXPECT_EQ(keeping.request(get("/next")).body, "GET /next? ");
  // A stream ends with the connection.
  TestClient stream(port);
  stream.send("GET /hold HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  auto writer = handler.held();
  begin_event_stream(*writer);
  writer->write(sse_event("1"));
  writer->finish();
  const std::string all = stream.receive_all();
  EXPECT_TRUE(all.ends_with("\r\n\r\ndata: 1\n\n")) << all;
  EXPECT_EQ(all.find("chunked"), std::string::npos);
}

TEST_F(HttpServerTest, ConnectionClose) {
  TestClient client(start());
  client.send(get("/bye", "Connection: close\r\n"));
  EXPECT_TRUE(client.receive_all().ends_with("GET /bye? "));
}

TEST_F(HttpServerTest, HeadersOfHandlersCannotSplitTheResponse) {
  TestClient client(start());
  auto response = client.request(get("/headers"));
  EXPECT_EQ(response.body, "ok");
  EXPECT_EQ(response.header("x-good"), "a  x-evil: 1    body");
  EXPECT_EQ(response.header("x-evil"), "");
  EXPECT_EQ(response.header("x-split"), "");
  EXPECT_EQ(response.header("content-length"), "2");
  EXPECT_EQ(response.header("x-utf8"), "é");
}

TEST_F(HttpServerTest, HandlersThatFailAnswer500) {
  TestClient client(start());
  for (const char* path : {"/throw", "/throw-int", "/drop"}) {
    auto response = client.request(get(path));
    EXPECT_EQ(response.status, 500) << path;
    EXPECT_EQ(response.header("content-type"), "application/json");
    EXPECT_NE(response.body.find("\"error_type\":\"internal\""), std::string::npos);
  }
  EXPECT_EQ(client.request(get("/still")).status, 200);
}

TEST_F(HttpServerTest, SecondResponseIsIgnored) {
  TestClient client(start());
  client.send(get("/hold"));
  auto writer = handler.held();
  writer->respond(text("one"));
  writer->respond(text("two"));
  writer->begin(200, {}, "text/plain");
  writer->write("three");
  writer->finish();
  EXPECT_EQ(client.receive().body, "one");
  EXPECT_EQ(client.request(get("/next")).body, "GET /next? ");
}

TEST_F(HttpServerTest, LargeResponse) {
  TestClient client(start());
  EXPECT_EQ(client.request(get("/big")).body, std::string(8 << 20, 'b'));
}

TEST_F(HttpServerTest, ThousandsOfRequestsOnFewConnections) {
  options.threads = 2;
  const uint16_t port = start();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      TestClient client(port);
      for (int i = 0; i < 2000; ++i) {
        const std::string body = std::to_string(t * 10000 + i);
        ASSERT_EQ(client.request(post("/k", body)).body, "POST /k? " + body);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(eventually([&] { return log().size() == 8000; }));
}

TEST_F(HttpServerTest, AccessLog) {
  TestClient client(start());
  client.request(get("/logged", "X-Request-Id: me\r\n"));
  ASSERT_TRUE(eventually([&] { return log().size() == 1; }));
  const AccessRecord record = log()[0];
  EXPECT_EQ(record.method, "GET");
  EXPECT_EQ(record.path, "/logged");
  EXPECT_EQ(record.status, 200);
  EXPECT_EQ(record.request_id, "me");
  EXPECT_EQ(record.client, "127.0.0.1");
  EXPECT_GT(record.bytes, 100u);
  EXPECT_TRUE(record.complete);
  EXPECT_GT(record.duration.count(), 0);
  EXPECT_EQ(record.note.error, "");
}

// What the log says of a request is what its client has got, to the byte, and the sum over a
// connection is all that came over it.
TEST_F(HttpServerTest, LoggedBytesAreThoseThatClientsGet) {
  const uint16_t port = start();
  const std::string last = "Connection: close\r\n";
  const std::vector<std::string> requests = {get("/a", last),
                                             post("/b", "body", last),
                                             get("/big", last),
                                             get("/throw", last),
                                             "HEAD /c HTTP/1.1\r\nHost: t\r\n" + last + "\r\n",
                                             "GET / HTTP/1.0\r\n\r\n"};
  for (const std::string& request : requests) {
    TestClient client(port);
    client.send(request);
    const size_t got = client.receive_all().size();
    ASSERT_TRUE(eventually([&] { return !log().empty(); }));
    EXPECT_EQ(log().back().bytes, got) << request;
    clear_log();
  }
  TestClient client(port);
  client.send(get("/1") + get("/big") + post("/2", "x"));
  size_t got = 0;
  for (int i = 0; i < 3; ++i) {
    const TestClient::Response response = client.receive();
    got += response.head.size() + response.body.size();
  }
  client.send(get("/hold"));
  auto writer = handler.held();
  begin_event_stream(*writer);
  for (int i = 0; i < 5; ++i) {
    writer->write(sse_event(std::to_string(i)));
    got += client.receive_until("data: " + std::to_string(i) + "\n\n\r\n").size();
  }
  writer->finish();
  got += client.receive_until("0\r\n\r\n").size();
  client.send(get("/3", last));
  got += client.receive_all().size();
  ASSERT_TRUE(eventually([&] { return log().size() == 5; }));
  size_t sum = 0;
  for (const AccessRecord& record : log()) sum += record.bytes;
  EXPECT_EQ(sum, got);
  EXPECT_GT(log()[1].bytes, 8u << 20);
  EXPECT_LT(log()[4].bytes, 1000u);
}

// Each request has its own, though they come over one connection.
TEST_F(HttpServerTest, NotesOfHandlersAreLogged) {
  TestClient client(start());
  client.request(get("/noted"));
  client.request(get("/plain"));
  ASSERT_TRUE(eventually([&] { return log().size() == 2; }));
  EXPECT_EQ(log()[0].note.generated_tokens, 7);
  EXPECT_EQ(log()[1].note.generated_tokens, 0);
}

// --- Limits and timeouts ---------------------------------------------------------------------

TEST_F(HttpServerTest, SlowHeadersTimeOut) {
  options.header_timeout = milliseconds(80);
  TestClient client(start());
  client.send("GET /slow HTTP/1.1\r\n");
  const Clock::time_point start = Clock::now();
  std::atomic<bool> answered{false};
  std::thread dripping([&] {
    while (!answered) {
      std::this_thread::sleep_for(milliseconds(20));
      client.send("x");  // progress does not help
    }
  });
  auto response = client.receive();
  answered = true;
  EXPECT_EQ(response.status, 408);
  EXPECT_LT(ms_since(start), 2000);
  dripping.join();
  client.shutdown_send();
  EXPECT_EQ(client.receive_all(), "");
}

TEST_F(HttpServerTest, SlowBodyTimesOut) {
  options.body_timeout = milliseconds(50);
  TestClient client(start());
  client.send("POST /v1/slow HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nabc");
  auto response = client.receive();
  EXPECT_EQ(response.status, 408);
  EXPECT_NE(response.body.find("\"param\":null"), std::string::npos);  // OpenAI's shape
}

TEST_F(HttpServerTest, IdleConnectionsAreClosed) {
  options.idle_timeout = milliseconds(50);
  const uint16_t port = start();
  TestClient silent(port);
  TestClient used(port);
  EXPECT_EQ(used.request(get("/")).status, 200);
  EXPECT_EQ(silent.receive_all(), "");
  EXPECT_EQ(used.receive_all(), "");
}

TEST_F(HttpServerTest, PendingResponsesHaveNoTimeout) {
  options.idle_timeout = options.header_timeout = options.write_timeout = milliseconds(30);
  TestClient client(start());
  client.send(get("/hold"));
  auto writer = handler.held();
  std::this_thread::sleep_for(milliseconds(150));
  writer->respond(text("at last"));
  EXPECT_EQ(client.receive().body, "at last");
}

TEST_F(HttpServerTest, OversizedRequests) {
  const uint16_t port = start();
  const auto status = [&](const std::string& request) {
    TestClient client(port);
    client.send(request);
    const int status = client.receive().status;
    client.shutdown_send();
    EXPECT_EQ(client.receive_all(), "");
    return status;
  };
  EXPECT_EQ(status(get("/" + std::string(40 << 10, 'a'))), 414);
  EXPECT_EQ(status(get("/", "x: " + std::string(40 << 10, 'a') + "\r\n")), 431);
  std::string many;
  for (int i = 0; i < 5000; ++i) many += "x: 123456\r\n";
  EXPECT_EQ(status(get("/", many)), 431);
  EXPECT_EQ(status(post("/", std::string((2 << 20) + 1, 'a'))), 413);
  EXPECT_EQ(status("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 18446744073709551615\r\n\r\n"),
            413);
  const std::string chunked = "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
  EXPECT_EQ(status(chunked + "ffffffffffffffff\r\n"), 413);
  std::string chunks = chunked;
  for (int i = 0; i < 33; ++i) chunks += "10000\r\n" + std::string(65536, 'c') + "\r\n";
  EXPECT_EQ(status(chunks), 413);
  EXPECT_EQ(status(chunked + "1;" + std::string(100 << 10, 'e')), 431);
  EXPECT_EQ(status(post("/", std::string(2 << 20, 'a'))), 200);
}

TEST_F(HttpServerTest, ClientsThatSendEverythingFirstReadTheError) {
  TestClient client(start());
  EXPECT_TRUE(client.send(post("/", std::string(16 << 20, 'a')))) << "reset while it was sending";
  EXPECT_EQ(client.receive().status, 413);
}

TEST_F(HttpServerTest, BadRequests) {
  const uint16_t port = start();
  const std::string host = "Host: t\r\n";
  const std::vector<std::pair<std::string, int>> cases = {
      {"\x16\x03\x01\x02\x01TLS hello\r\n\r\n", 400},
      {"GET\r\n\r\n", 400},
      {"GET / HTTP/1.1\nHost: t\n\n", 400},
      {"GET / HTTP/2.0\r\nHost: t\r\n\r\n", 400},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\n\r\n", 400},  // no Host
      {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
      {"GET example.org HTTP/1.1\r\nHost: t\r\n\r\n", 400},
      {"CONNECT example.org:443 HTTP/1.1\r\nHost: t\r\n\r\n", 400},
      {"GET /%zz HTTP/1.1\r\nHost: t\r\n\r\n", 400},
      {"GET /%ff HTTP/1.1\r\nHost: t\r\n\r\n", 400},
      {"GET /%00 HTTP/1.1\r\nHost: t\r\n\r\n", 400},
      {"GET /a b HTTP/1.1\r\nHost: t\r\n\r\n", 400},
      {std::string("GET /\0 HTTP/1.1\r\nHost: t\r\n\r\n", 28), 400},
      {"GET / HTTP/1.1\r\nHost: t\r\nbad header\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: t\r\nx : y\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: t\r\nx: \x01\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: -1\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1x\r\n\r\na", 400},
      {"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400},
      {"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nTransfer-Encoding: "
       "chunked\r\n\r\n0\r\n\r\n",
       400},
      {"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nContent-Length: "
       "5\r\n\r\n0\r\n\r\n",
       400},
      {"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
      {"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: identity\r\n\r\n", 501},
      {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: t\r\nExpect: tea\r\n\r\n", 417},
  };
  for (const auto& [bytes, status] : cases) {
    TestClient client(port);
    client.send(bytes);
    auto response = client.receive();
    EXPECT_EQ(response.status, status) << bytes << "\n" << response.body;
    EXPECT_EQ(response.header("content-type"), "application/json");
    EXPECT_EQ(response.header("connection"), "close");
    EXPECT_TRUE(response.body.starts_with("{\"error\":\"")) << response.body;
    EXPECT_GT(boost::json::parse(response.body).at("error").as_string().size(), 20u);
    client.shutdown_send();
    EXPECT_EQ(client.receive_all(), "") << bytes;
  }
  EXPECT_EQ(handler.calls, 0);
  TestClient cut(port);
  cut.send("GET / HTTP/1.1\r\nHost");
  cut.shutdown_send();
  EXPECT_TRUE(cut.receive_all().starts_with("HTTP/1.1 400 "));
}

TEST_F(HttpServerTest, UnusualButGoodRequests) {
  TestClient client(start());
  EXPECT_EQ(client.request("\r\n\r\n" + get("/crlf")).body, "GET /crlf? ");
  EXPECT_EQ(client.request(get("http://test/abs?q")).body, "GET /abs?q ");
  EXPECT_EQ(client.request(get("*")).body, "GET *? ");
  EXPECT_EQ(client.request("BREW /pot HTTP/1.1\r\nHost: t\r\n\r\n").body, "BREW /pot? ");
  EXPECT_EQ(client.request("GET / HTTP/1.1\r\nhOsT:t\r\nX: \xff\r\n\r\n").body, "GET /? ");
  const std::string twice = "Content-Length: 2\r\n";
  EXPECT_EQ(client.request("POST / HTTP/1.1\r\nHost: t\r\n" + twice + twice + "\r\nab").body,
            "POST /? ab");
}

TEST_F(HttpServerTest, ConnectionsBeyondTheLimitGet503) {
  options.max_connections = 2;
  const uint16_t port = start();
  TestClient a(port);
  TestClient b(port);
  a.send(get("/hold"));
  b.send(get("/hold"));
  auto for_a = handler.held();
  auto for_b = handler.held();
  TestClient c(port);
  auto refused = c.request(get("/"));
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.header("connection"), "close");
  EXPECT_EQ(server->connections(), 2u);
  for_a->respond(text("still served"));
  EXPECT_EQ(a.receive().body, "still served");
  b.close();
  EXPECT_TRUE(eventually([&] { return server->connections() == 1; }));
  TestClient d(port);
  EXPECT_EQ(d.request(get("/")).status, 200);
}

// More than are told at once, one after the other: each is told, and none is remembered.
TEST_F(HttpServerTest, RefusedConnectionsAreForgotten) {
  options.max_connections = 1;
  const uint16_t port = start();
  TestClient busy(port);
  busy.send(get("/hold"));
  auto writer = handler.held();
  for (int i = 0; i < 200; ++i) {
    TestClient refused(port);
    ASSERT_EQ(refused.receive().status, 503) << i;
    ASSERT_EQ(server->connections(), 1u) << i;
    refused.close();
    // Else more would be open at once than are told.
    if (i % 32 == 31) {
      ASSERT_TRUE(eventually([&] { return log().size() >= static_cast<size_t>(i); }));
    }
  }
  writer->respond(text("done"));
  EXPECT_EQ(busy.receive().body, "done");
  busy.close();
  ASSERT_TRUE(eventually([&] { return server->connections() == 0; }));
  TestClient next(port);
  EXPECT_EQ(next.request(get("/")).status, 200);
}

TEST_F(HttpServerTest, IdleConnectionsGiveWay) {
  options.max_connections = 3;
  const uint16_t port = start();
  TestClient busy(port);
  busy.send(get("/hold"));
  auto writer = handler.held();
  TestClient oldest(port);
  EXPECT_EQ(oldest.request(get("/")).status, 200);
  TestClient younger(port);
  EXPECT_EQ(younger.request(get("/")).status, 200);
  TestClient fresh(port);
  EXPECT_EQ(fresh.request(get("/")).status, 200);
  EXPECT_EQ(oldest.receive_all(), "");
  EXPECT_EQ(younger.request(get("/")).status, 200);
  for (int i = 0; i < 50; ++i) {
    TestClient more(port);
    ASSERT_EQ(more.request(get("/")).status, 200) << i;
  }
  writer->respond(text("untouched"));
  EXPECT_EQ(busy.receive().body, "untouched");
}

TEST_F(HttpServerTest, OneAddressHasItsShareOfConnections) {
  options.max_connections_per_address = 2;
  const uint16_t port = start();
  for (int round = 0; round < 3; ++round) {  // places come back, those of refused ones, too
    TestClient a(port);
    TestClient b(port);
    a.send(get("/hold"));
    b.send(get("/hold"));
    auto for_a = handler.held();
    auto for_b = handler.held();
    for (int i = 0; i < 3; ++i) {
      TestClient c(port);
      EXPECT_EQ(c.request(get("/")).status, 503);
    }
    for_a->respond(text("a"));
    for_b->respond(text("b"));
    EXPECT_EQ(a.receive().body.size() + b.receive().body.size(), 2u);
    a.close();
    b.close();
    EXPECT_TRUE(eventually([&] { return server->connections() == 0; }));
  }
}

// All file descriptors that the process may have are taken, but for one.
class OneFileLeft {
 public:
  OneFileLeft() {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    rlimit tight = before_;
    tight.rlim_cur = 128;
    ::setrlimit(RLIMIT_NOFILE, &tight);
    const auto take = [] { return ::open("/dev/null", O_RDONLY); };
    for (int file = take(); file >= 0; file = take()) files_.push_back(file);
    EXPECT_FALSE(files_.empty());
    ::close(files_.back());
    files_.pop_back();
  }
  ~OneFileLeft() { give_back(); }
  void give_back() {
    for (int file : std::exchange(files_, {})) ::close(file);
    ::setrlimit(RLIMIT_NOFILE, &before_);
  }

 private:
  rlimit before_{};
  std::vector<int> files_;
};

// What is idle holds files that a new client needs.
TEST_F(HttpServerTest, IdleConnectionsGiveWayWhenFilesAreFew) {
  const uint16_t port = start();
  TestClient idle(port);
  EXPECT_EQ(idle.request(get("/")).status, 200);
  OneFileLeft files;  // for the client's socket; none for the server's
  TestClient client(port);
  EXPECT_EQ(client.request(get("/")).status, 200);
  EXPECT_EQ(idle.receive_all(), "");
  EXPECT_EQ(client.receive_some(120), "") << "it is idle itself now, but nobody waits for its file";
  EXPECT_EQ(client.request(get("/")).status, 200);
}

TEST_F(HttpServerTest, AcceptingGoesOnWhenFilesAreFreeAgain) {
  std::atomic<int> errors{0};
  options.error_log = [&](std::string_view) { ++errors; };
  const uint16_t port = start();
  OneFileLeft files;  // for the client's socket; none for the server's
  TestClient client(port);
  client.send(get("/patient"));
  EXPECT_TRUE(eventually([&] { return errors > 0; }));
  EXPECT_EQ(client.receive_some(120), "");
  EXPECT_LT(errors, 10) << "it must not spin";
  files.give_back();
  EXPECT_EQ(client.receive().body, "GET /patient? ");
}

}  // namespace
}  // namespace lorax
