// The transport's timers, on a clock that stands still: each fires at its time, not before it, and
// not after what it was set for. No test here depends on how fast the machine is.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "server/http/http_clock.h"
#include "server/http/http_server.h"
#include "server/http/sse.h"
#include "server/http/testing/http_server_fixture.h"
#include "server/http/testing/test_client.h"

namespace lorax {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class HttpTimersTest : public HttpServerTest {
 protected:
  HttpTimersTest() {
    options.header_timeout = seconds(10);
    options.body_timeout = seconds(60);
    options.idle_timeout = seconds(75);
    options.write_timeout = seconds(30);
    options.sse_keep_alive = seconds(15);
    options.linger_timeout = seconds(2);
  }

  // The transport has done all that was to do: its one thread has served another connection from
  // its beginning to its end. A timer that would fire wrongly has had a moment to do so.
  void settle() {
    std::this_thread::sleep_for(milliseconds(3));
    TestClient probe(server->port());
    EXPECT_EQ(probe.request(get("/settle")).status, 200);
    const size_t with_probe = server->connections();
    probe.close();
    EXPECT_TRUE(eventually([&] { return server->connections() < with_probe; }));
  }

  // The connection is open just before `timeout`, and closed at it.
  void expect_closed_after(milliseconds timeout) {
    clock.advance(timeout - milliseconds(1));
    settle();
    EXPECT_EQ(server->connections(), 1u) << "closed too soon";
    clock.advance(milliseconds(1));
    EXPECT_TRUE(eventually([&] { return server->connections() == 0; })) << "never closed";
  }

  HttpClock::Stopped clock;
};

TEST_F(HttpTimersTest, IdleConnectionsCloseAtTheirTime) {
  TestClient client(start());
  settle();
  expect_closed_after(options.idle_timeout);
}

// After each kind of end the time begins anew, and nothing of the request before is left.
TEST_F(HttpTimersTest, WhatComesAfterEachKindOfRequestIsAFreshConnection) {
  const std::string chunked = "POST /c HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
  const auto stream = [&](TestClient& client) {
    client.send(get("/hold"));
    auto writer = handler.held();
    begin_event_stream(*writer);
    writer->write(sse_event("1"));
    client.receive_until("data: 1\n\n\r\n");
    settle();
    clock.advance(options.sse_keep_alive);
    EXPECT_EQ(client.receive_until(":\n\n\r\n"), "3\r\n:\n\n\r\n");
    writer->finish();
    EXPECT_EQ(client.receive_until("0\r\n\r\n"), "0\r\n\r\n");
  };
  const std::vector<std::function<void(TestClient&)>> kinds = {
      [](TestClient& client) { EXPECT_EQ(client.request(get("/a")).status, 200); },
      [](TestClient& client) { EXPECT_EQ(client.request(post("/b", "body")).status, 200); },
      [&](TestClient& client) {
        client.send(chunked);
        settle();  // the body's time has begun
        EXPECT_EQ(client.request("1\r\nx\r\n0\r\n\r\n").body, "POST /c? x");
      },
      [](TestClient& client) { EXPECT_EQ(client.request(get("/throw")).status, 500); },
      [](TestClient& client) { EXPECT_EQ(client.request(get("/drop")).status, 500); },
      [](TestClient& client) { EXPECT_EQ(client.request(get("/big")).body.size(), 8u << 20); },
      stream};
  const uint16_t port = start();
  for (size_t kind = 0; kind < kinds.size(); ++kind) {
    TestClient client(port);
    const auto again = [&](milliseconds pause) {
      settle();
      clock.advance(pause);
      settle();
      EXPECT_EQ(client.request(get("/again")).body, "GET /again? ") << kind;
    };
    kinds[kind](client);
    again(options.idle_timeout - milliseconds(1));
    kinds[kind](client);
    // Each of the other timers, had it been left behind, would have fired by now.
    for (const milliseconds pause :
         {options.linger_timeout, options.header_timeout, options.sse_keep_alive + seconds(3),
          options.write_timeout, options.body_timeout}) {
      again(pause);
    }
    // A response that takes its time is not hurt by them either, and nothing comes before it.
    client.send(get("/hold"));
    auto writer = handler.held();
    clock.advance(2 * options.idle_timeout);
    settle();
    writer->respond(text("at last"));
    const TestClient::Response late = client.receive();
    EXPECT_EQ(late.status, 200) << kind;
    EXPECT_EQ(late.body, "at last") << kind;
    settle();
    expect_closed_after(options.idle_timeout);
  }
}

TEST_F(HttpTimersTest, HeadersHaveTheirTimeFromTheFirstByte) {
  TestClient client(start());
  settle();
  clock.advance(options.idle_timeout - seconds(1));  // it may be idle for long before
  client.send("GET /slow HTTP/1.1\r\nx");
  settle();
  clock.advance(options.header_timeout - milliseconds(1));
  settle();
  client.send("y");
  EXPECT_EQ(client.receive_some(20), "");
  clock.advance(milliseconds(1));
  EXPECT_EQ(client.receive().status, 408);
  settle();  // it lingers from when the answer has gone out
  EXPECT_EQ(server->connections(), 1u) << "it lingers";
  clock.advance(options.linger_timeout);
  EXPECT_TRUE(eventually([&] { return server->connections() == 0; }));
}

TEST_F(HttpTimersTest, BodiesHaveTheirTimeFromTheEndOfTheHeaders) {
  TestClient client(start());
  client.send("POST /slow HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nab");
  settle();
  clock.advance(options.body_timeout - milliseconds(1));
  settle();
  client.send("c");
  EXPECT_EQ(client.receive_some(20), "");
  clock.advance(milliseconds(1));
  EXPECT_EQ(client.receive().status, 408);
}

TEST_F(HttpTimersTest, LingeringEnds) {
  TestClient client(start());
  client.send("GARBAGE\r\n\r\n");
  EXPECT_EQ(client.receive().status, 400);
  settle();
  expect_closed_after(options.linger_timeout);
}

// A comment at every interval without an event; an event puts the next one off.
TEST_F(HttpTimersTest, CommentsComeWhileAStreamIsSilent) {
  TestClient client(start());
  client.send(get("/hold"));
  auto writer = handler.held();
  begin_event_stream(*writer);
  client.receive_until("\r\n\r\n");
  for (int round = 0; round < 3; ++round) {
    settle();
    clock.advance(options.sse_keep_alive - milliseconds(1));
    EXPECT_EQ(client.receive_some(20), "") << round;
    clock.advance(milliseconds(1));
    EXPECT_EQ(client.receive_until("\n\n\r\n"), "3\r\n:\n\n\r\n") << round;
  }
  settle();
  clock.advance(options.sse_keep_alive - milliseconds(1));
  writer->write(sse_event("x"));
  EXPECT_EQ(client.receive_until("\n\n\r\n"), "9\r\ndata: x\n\n\r\n");
  settle();
  clock.advance(options.sse_keep_alive - milliseconds(1));
  EXPECT_EQ(client.receive_some(20), "");
  clock.advance(milliseconds(1));
  EXPECT_EQ(client.receive_until("\n\n\r\n"), "3\r\n:\n\n\r\n");
  writer->finish();
  EXPECT_EQ(client.receive_until("0\r\n\r\n"), "0\r\n\r\n");
}

// Between two writes a stream has no deadline.
TEST_F(HttpTimersTest, AStreamMayBeSilentForLongerThanAWriteMayTake) {
  options.sse_keep_alive = std::chrono::hours(1);
  TestClient client(start());
  client.send(get("/hold"));
  auto writer = handler.held();
  begin_event_stream(*writer);
  writer->write(sse_event("1"));
  client.receive_until("data: 1\n\n\r\n");
  settle();
  clock.advance(10 * options.write_timeout);
  settle();
  writer->write(sse_event("2"));
  EXPECT_EQ(client.receive_until("\n\n\r\n"), "9\r\ndata: 2\n\n\r\n");
  EXPECT_EQ(handler.disconnects, 0);
}

// Slow is not stalled: a response may take any time as long as some of it is taken.
TEST_F(HttpTimersTest, AWriteHasItsTimeFromTheLastProgress) {
  // In each round the reader takes more than sockets hold, so that the server has written.
  constexpr size_t kRound = size_t{8} << 20;
  constexpr size_t kSize = 5 * kRound;
  TestClient client(start(), /*receive_buffer=*/1 << 16);
  client.send(get("/hold"));
  handler.held()->respond(text(std::string(kSize, 'b')));
  client.receive_until("\r\n\r\n");
  size_t got = 0;
  for (size_t round = 1; got < kSize;) {
    const std::string some = client.receive_some();
    ASSERT_FALSE(some.empty()) << "cut after " << got;
    got += some.size();
    if (got < round * kRound) continue;
    ++round;
    clock.advance(options.write_timeout - milliseconds(1));
  }
  EXPECT_EQ(got, kSize);
  ASSERT_TRUE(eventually([&] { return log().size() == 1; }));
  EXPECT_TRUE(log()[0].complete);
}

TEST_F(HttpTimersTest, AReaderThatTakesNothingIsDisconnectedAtItsTime) {
  TestClient client(start(), /*receive_buffer=*/4096);
  client.send(get("/big"));
  settle();
  expect_closed_after(options.write_timeout);
  EXPECT_EQ(log().back().path, "/big");
  EXPECT_FALSE(log().back().complete);
}

}  // namespace
}  // namespace lorax
