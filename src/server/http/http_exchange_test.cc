#include "server/http/http_exchange.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "server/http/sse.h"

namespace lorax {
namespace {

using Progress = HttpExchange::Progress;

ResponseTerms terms() {
  ResponseTerms terms;
  terms.path = "/generate";
  terms.request_id = "id";
  terms.max_queued_bytes = 1000;
  return terms;
}

class HttpExchangeTest : public testing::Test {
 protected:
  void make(ResponseTerms with) {
    exchange = std::make_shared<HttpExchange>(std::move(with), [this] { ++wakes; });
    writer = make_writer(exchange);
  }
  std::string take(Progress expected) {
    std::string bytes;
    EXPECT_EQ(exchange->take(bytes), expected);
    return bytes;
  }

  std::atomic<int> wakes = 0;
  std::shared_ptr<HttpExchange> exchange;
  std::shared_ptr<ResponseWriter> writer;
};

TEST_F(HttpExchangeTest, WakesOnlyWhoSleeps) {
  make(terms());
  writer->begin(200, {}, "text/plain");
  writer->write("a");
  EXPECT_EQ(wakes, 1);
  EXPECT_TRUE(take(Progress::kOpen).ends_with("\r\n\r\n1\r\na\r\n"));
  writer->write("b");
  writer->write("c");
  EXPECT_EQ(wakes, 1) << "whoever took something comes again";
  EXPECT_EQ(take(Progress::kOpen), "1\r\nb\r\n1\r\nc\r\n") << "one piece for the socket";
  EXPECT_EQ(take(Progress::kOpen), "");
  writer->write("d");
  EXPECT_EQ(wakes, 2);
  writer->finish();
  EXPECT_EQ(take(Progress::kComplete), "1\r\nd\r\n0\r\n\r\n");
}

TEST_F(HttpExchangeTest, AQueueThatRunsOverCutsTheResponse) {
  make(terms());
  int disconnects = 0;
  writer->on_disconnect([&] { ++disconnects; });
  writer->begin(200, {}, "text/plain");
  take(Progress::kOpen);
  writer->write(std::string(900, 'x'));
  writer->write(std::string(200, 'y'));
  EXPECT_EQ(disconnects, 0) << "the writer's thread must not run it";
  EXPECT_EQ(take(Progress::kCut), "");
  exchange->disconnect();
  EXPECT_EQ(disconnects, 1);
  writer->write("more");
  writer->finish();
  exchange->disconnect();
  EXPECT_EQ(disconnects, 1);
}

TEST_F(HttpExchangeTest, NoCallbackAfterTheEnd) {
  make(terms());
  int disconnects = 0;
  writer->on_disconnect([&] { ++disconnects; });
  writer->respond({});
  writer->on_disconnect([&] { ++disconnects; });
  exchange->disconnect();
  writer->on_disconnect([&] { ++disconnects; });
  EXPECT_EQ(disconnects, 0);
}

TEST_F(HttpExchangeTest, CallbackIsFreedWithTheResponse) {
  make(terms());
  const auto owned = std::make_shared<int>(1);
  writer->on_disconnect([owned] {});
  EXPECT_EQ(owned.use_count(), 2);
  writer->respond({});
  EXPECT_EQ(owned.use_count(), 1) << "what a callback holds must not outlive the response";
}

TEST_F(HttpExchangeTest, DroppingTheWriterAnswers500) {
  make(terms());
  writer.reset();
  const std::string bytes = take(Progress::kComplete);
  EXPECT_TRUE(bytes.starts_with("HTTP/1.1 500 ")) << bytes;
  EXPECT_NE(bytes.find("{\"error\":"), std::string::npos);
  EXPECT_EQ(exchange->status(), 500);
}

TEST_F(HttpExchangeTest, DroppingTheWriterMidwayCutsAfterWhatWasWritten) {
  make(terms());
  writer->begin(200, {}, "text/plain");
  writer->write("a");
  writer.reset();
  EXPECT_TRUE(take(Progress::kOpen).ends_with("1\r\na\r\n"));
  EXPECT_EQ(take(Progress::kCut), "");
}

TEST_F(HttpExchangeTest, SignsOfLife) {
  make(terms());
  EXPECT_TRUE(exchange->queue_sign_of_life());
  EXPECT_EQ(take(Progress::kOpen), "HTTP/1.1 100 Continue\r\n\r\n");
  begin_event_stream(*writer);
  take(Progress::kOpen);
  EXPECT_TRUE(exchange->queue_sign_of_life());
  EXPECT_EQ(take(Progress::kOpen), "3\r\n:\n\n\r\n");
  writer->finish();
  EXPECT_FALSE(exchange->queue_sign_of_life());
  ResponseTerms old = terms();
  old.http11 = false;
  make(old);
  EXPECT_FALSE(exchange->queue_sign_of_life());
  writer->begin(200, {}, "text/plain");
  EXPECT_FALSE(exchange->queue_sign_of_life());
}

TEST_F(HttpExchangeTest, NoBodyForHeadAndNoContent) {
  ResponseTerms head = terms();
  head.head = true;
  make(head);
  HttpResponse response;
  response.body = "body";
  writer->respond(response);
  const std::string bytes = take(Progress::kComplete);
  EXPECT_NE(bytes.find("content-length: 4\r\n"), std::string::npos);
  EXPECT_TRUE(bytes.ends_with("\r\n\r\n"));
  make(head);
  begin_event_stream(*writer);
  writer->write("data");
  writer->finish();
  EXPECT_TRUE(take(Progress::kComplete).ends_with("\r\n\r\n"));
  make(terms());
  response.status = 204;
  writer->respond(response);
  EXPECT_EQ(take(Progress::kComplete).find("content-"), std::string::npos);
}

TEST_F(HttpExchangeTest, ThreadsMayMeet) {
  for (int round = 0; round < 200; ++round) {
    make(terms());
    std::atomic<int> disconnects{0};
    writer->on_disconnect([&] { ++disconnects; });
    std::thread producer([writer = std::move(writer)] {
      writer->begin(200, {}, "text/plain");
      for (int i = 0; i < 50; ++i) writer->write("x");
      writer->finish();
    });
    std::string bytes;
    for (int i = 0; i < 10; ++i) exchange->take(bytes);
    exchange->disconnect();
    producer.join();
    EXPECT_LE(disconnects, 1);
    exchange.reset();
  }
}

}  // namespace
}  // namespace lorax
