// Streams, clients that go, and the end of the server.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "server/http/http_server.h"
#include "server/http/sse.h"
#include "server/http/testing/http_server_fixture.h"
#include "server/http/testing/test_client.h"

namespace lorax {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

using HttpConnectionTest = HttpServerTest;

// --- Streams ---------------------------------------------------------------------------------

TEST_F(HttpConnectionTest, StreamArrivesPartByPart) {
  TestClient client(start());
  client.send(get("/hold"));
  auto writer = handler.held();
  begin_event_stream(*writer, {{"x-model-id", "m"}});
  const std::string head = client.receive_until("\r\n\r\n");
  EXPECT_NE(head.find("content-type: text/event-stream\r\n"), std::string::npos);
  EXPECT_NE(head.find("x-model-id: m\r\n"), std::string::npos);
  EXPECT_NE(head.find("cache-control: no-cache\r\n"), std::string::npos);
  for (int i = 0; i < 20; ++i) {
    writer->write(sse_event(std::to_string(i)));
    const std::string event = "data: " + std::to_string(i) + "\n\n";
    ASSERT_EQ(client.receive_until(event + "\r\n"),
              (event.size() == 9 ? "9\r\n" : "a\r\n") + event + "\r\n");
  }
  writer->write("");  // must not end the body
  writer->finish();
  EXPECT_EQ(client.receive_until("0\r\n\r\n"), "0\r\n\r\n");
  EXPECT_EQ(client.request(get("/next")).body, "GET /next? ");
}

TEST_F(HttpConnectionTest, SilentStreamGetsComments) {
  options.sse_keep_alive = milliseconds(30);
  TestClient client(start());
  client.send(get("/hold"));
  auto writer = handler.held();
  begin_event_stream(*writer);
  client.receive_until("\r\n\r\n");
  const Clock::time_point start = Clock::now();
  EXPECT_EQ(client.receive_until("\n\n\r\n"), "3\r\n:\n\n\r\n");
  EXPECT_EQ(client.receive_until("\n\n\r\n"), "3\r\n:\n\n\r\n");
  EXPECT_GE(ms_since(start), 55);
  writer->finish();
  EXPECT_NE(client.receive_until("0\r\n\r\n"), "");
}

TEST_F(HttpConnectionTest, AbandonedStreamIsCutShort) {
  TestClient client(start());
  client.send(get("/hold"));
  auto writer = handler.held();
  begin_event_stream(*writer);
  writer->write(sse_event("last words"));
  writer.reset();
  const std::string all = client.receive_all();
  EXPECT_NE(all.find("data: last words\n\n"), std::string::npos);
  EXPECT_EQ(all.find("\r\n0\r\n"), std::string::npos);
  EXPECT_EQ(handler.disconnects, 0);
}

TEST_F(HttpConnectionTest, SlowReaderIsDisconnected) {
  options.max_queued_bytes = 256 << 10;
  TestClient client(start(), /*receive_buffer=*/4096);
  client.send(get("/hold"));
  auto writer = handler.held();
  begin_event_stream(*writer);
  const std::string event = sse_event(std::string(1000, 'x'));
  for (int i = 0; i < 20000 && handler.disconnects == 0; ++i) writer->write(event);
  EXPECT_TRUE(eventually([&] { return handler.disconnects == 1; }));
  EXPECT_TRUE(eventually([&] { return server->connections() == 0; }));
  writer->write(event);
  writer->finish();
  EXPECT_EQ(handler.disconnects, 1);
  EXPECT_FALSE(log().at(0).complete);
}

TEST_F(HttpConnectionTest, StalledReaderTimesOut) {
  options.write_timeout = milliseconds(100);
  TestClient client(start(), /*receive_buffer=*/4096);
  client.send(get("/big"));
  EXPECT_TRUE(eventually([&] { return server->connections() == 0; }));
}

// --- Clients that go -------------------------------------------------------------------------

TEST_F(HttpConnectionTest, ClosingWhileTheResponseIsPendingIsNoticedAtOnce) {
  const uint16_t port = start();
  double fastest[2] = {1e9, 1e9};  // a busy machine may be late once
  for (int round = 0; round < 6; ++round) {
    const bool reset = round % 2 == 1;
    TestClient client(port);
    client.send(get("/hold"));
    auto writer = handler.held();
    const int before = handler.disconnects;
    const Clock::time_point closed = Clock::now();
    reset ? client.reset() : client.close();
    EXPECT_TRUE(eventually([&] { return handler.disconnects == before + 1; }));
    fastest[reset] = std::min(fastest[reset], ms_since(closed));
    bool told = false;
    writer->on_disconnect([&] { told = true; });
    EXPECT_TRUE(told);
    writer->respond(text("too late"));
  }
  EXPECT_LT(fastest[0], 50);
  EXPECT_LT(fastest[1], 50);
  ASSERT_TRUE(eventually([&] { return log().size() == 6; }));
  EXPECT_EQ(log()[0].status, 499);
  EXPECT_FALSE(log()[0].complete);
}

TEST_F(HttpConnectionTest, ClosingWhileTheResponseStreamsIsNoticedAtOnce) {
  const uint16_t port = start();
  double fastest[2] = {1e9, 1e9};
  for (int round = 0; round < 6; ++round) {
    const bool reset = round % 2 == 1;
    TestClient client(port);
    client.send(get("/hold"));
    auto writer = handler.held();
    begin_event_stream(*writer);
    writer->write(sse_event("1"));
    client.receive_until("data: 1\n\n\r\n");
    const int before = handler.disconnects;
    const Clock::time_point closed = Clock::now();
    reset ? client.reset() : client.close();
    EXPECT_TRUE(eventually([&] { return handler.disconnects == before + 1; }));
    fastest[reset] = std::min(fastest[reset], ms_since(closed));
    writer->write(sse_event("2"));
    writer->finish();
  }
  EXPECT_LT(fastest[0], 50);
  EXPECT_LT(fastest[1], 50);
  EXPECT_TRUE(eventually([&] { return server->connections() == 0; }));
}

TEST_F(HttpConnectionTest, HalfClosedClientGetsItsResponse) {
  const uint16_t port = start();
  TestClient client(port);
  client.send(get("/hold"));
  client.shutdown_send();
  auto writer = handler.held();
  EXPECT_EQ(client.receive_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(handler.disconnects, 0);
  writer->respond(text("patience"));
  EXPECT_TRUE(client.receive_all().ends_with("patience"));
  // Also one that is answered at once, pipelined ones, and a stream.
  TestClient pipelined(port);
  pipelined.send(get("/1") + get("/2"));
  pipelined.shutdown_send();
  const std::string all = pipelined.receive_all();
  EXPECT_NE(all.find("GET /1? "), std::string::npos);
  EXPECT_TRUE(all.ends_with("GET /2? "));
  TestClient stream(port);
  stream.send(get("/hold"));
  auto stream_writer = handler.held();
  begin_event_stream(*stream_writer);
  stream.receive_until("\r\n\r\n");
  stream.shutdown_send();
  EXPECT_EQ(stream.receive_until("\n\n\r\n"), "3\r\n:\n\n\r\n");
  stream_writer->write(sse_event("x"));
  stream_writer->finish();
  EXPECT_TRUE(stream.receive_all().ends_with("data: x\n\n\r\n0\r\n\r\n"));
}

TEST_F(HttpConnectionTest, ClientThatClosesAfterHalfClosingIsNoticed) {
  TestClient client(start());
  client.send(get("/hold"));
  client.shutdown_send();
  auto writer = handler.held();
  EXPECT_NE(client.receive_until("\r\n\r\n"), "");
  EXPECT_EQ(handler.disconnects, 0);
  client.reset();
  EXPECT_TRUE(eventually([&] { return handler.disconnects == 1; }));
}

TEST_F(HttpConnectionTest, ResetIsNoticedBehindAFloodOfPipelinedBytes) {
  TestClient client(start());
  client.send(get("/hold"));
  auto writer = handler.held();
  client.send(std::string(200 << 10, '\n'));
  std::this_thread::sleep_for(milliseconds(50));
  client.reset();
  EXPECT_TRUE(eventually([&] { return handler.disconnects == 1; }));
}

TEST_F(HttpConnectionTest, ThousandsOfConnectionsLeaveNothing) {
  options.threads = 2;
  const uint16_t port = start();
  for (int round = 0; round < 4; ++round) {
    std::vector<TestClient> clients;
    for (int i = 0; i < 500; ++i) {
      clients.emplace_back(port);
      if (i % 3 == 1) clients.back().send("GET /half HTT");
      if (i % 3 == 2) clients.back().send(get("/full"));
    }
    for (size_t i = 0; i < clients.size(); i += 7) clients[i].reset();
  }
  EXPECT_TRUE(eventually([&] { return server->connections() == 0; }));
  TestClient client(port);
  EXPECT_EQ(client.request(get("/alive")).status, 200);
}

// --- The end ---------------------------------------------------------------------------------

TEST_F(HttpConnectionTest, StopDrainsWhatRuns) {
  const uint16_t port = start();
  TestClient idle(port);
  EXPECT_EQ(idle.request(get("/")).status, 200);
  TestClient pending(port);
  pending.send(get("/hold"));
  auto writer = handler.held();
  TestClient streaming(port);
  streaming.send(get("/hold"));
  auto stream = handler.held();
  begin_event_stream(*stream);
  server->stop_accepting();
  EXPECT_EQ(idle.receive_all(), "");
  std::thread finishing([&] {
    std::this_thread::sleep_for(milliseconds(50));
    writer->respond(text("drained"));
    stream->write(sse_event("drained"));
    stream->finish();
  });
  auto response = std::thread([&] {
    auto answer = pending.receive();
    EXPECT_EQ(answer.body, "drained");
    EXPECT_EQ(answer.header("connection"), "close");
    pending.close();
    EXPECT_TRUE(streaming.receive_all().ends_with("data: drained\n\n\r\n0\r\n\r\n"));
    streaming.close();
  });
  const Clock::time_point start = Clock::now();
  server->stop(milliseconds(5000));
  EXPECT_LT(ms_since(start), 1500);
  finishing.join();
  response.join();
  EXPECT_EQ(handler.disconnects, 0);
  EXPECT_EQ(server->connections(), 0u);
}

TEST_F(HttpConnectionTest, StopDisconnectsWhatDoesNotEnd) {
  const uint16_t port = start();
  TestClient client(port);
  client.send(get("/hold"));
  auto writer = handler.held();
  begin_event_stream(*writer);
  std::atomic<bool> end{false};
  std::thread producer([&] {
    while (!end) {
      writer->write(sse_event("tick"));
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  std::thread consumer([&] {
    while (!client.receive_some(1000).empty()) {
    }
  });
  std::this_thread::sleep_for(milliseconds(50));
  server->stop(milliseconds(50));
  EXPECT_EQ(handler.disconnects, 1);
  server.reset();
  std::this_thread::sleep_for(milliseconds(10));  // the producer writes on
  end = true;
  producer.join();
  consumer.join();
}

TEST_F(HttpConnectionTest, DestructionAtAnyTime) {
  for (int i = 0; i < 30; ++i) {
    options.threads = 1 + i % 2;
    const uint16_t port = start();
    TestClient client(port);
    if (i % 3 != 0) client.send(i % 3 == 1 ? "GET /ha" : get("/big"));
    if (i % 5 == 0) std::this_thread::sleep_for(milliseconds(1));
    server.reset();
  }
}

TEST_F(HttpConnectionTest, PortsInUseAndBadHosts) {
  options.port = start();
  try {
    HttpServer second(options, handler.function());
    FAIL() << "two servers on one port";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(std::to_string(options.port)), std::string::npos);
  }
  options.hostname = "no.such.host.invalid";
  EXPECT_THROW(HttpServer(options, handler.function()), Error);
}

}  // namespace
}  // namespace lorax
