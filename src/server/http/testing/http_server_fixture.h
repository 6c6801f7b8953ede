// What the tests of the transport share: a server on loopback with a handler that answers, holds
// requests back or fails, as the path says.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/eventually.h"
#include "server/http/http_server.h"
#include "server/http/testing/test_client.h"

namespace lorax {

inline double ms_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

inline HttpResponse text(std::string body) {
  HttpResponse response;
  response.content_type = "text/plain";
  response.body = std::move(body);
  return response;
}

// Answers /echo with what it got; keeps the writers of everything under /hold for the test.
class TestHandler {
 public:
  HttpHandler function() {
    return [this](HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
      handle(std::move(request), std::move(writer));
    };
  }

  // The writer of the next held request.
  std::shared_ptr<ResponseWriter> held() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kTestPatience, [&] { return !held_.empty(); }));
    if (held_.empty()) return nullptr;
    std::shared_ptr<ResponseWriter> writer = std::move(held_.front());
    held_.erase(held_.begin());
    return writer;
  }

  std::atomic<int> disconnects{0};
  std::atomic<int> calls{0};

 private:
  void handle(HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
    ++calls;
    if (request.path == "/throw") throw std::runtime_error("on purpose");
    if (request.path == "/throw-int") throw 7;
    if (request.path == "/drop") return;
    if (request.path.starts_with("/hold")) {
      writer->on_disconnect([this] { ++disconnects; });
      const std::lock_guard lock(mutex_);
      held_.push_back(std::move(writer));
      changed_.notify_all();
      return;
    }
    if (request.path == "/headers") {
      HttpResponse response = text("ok");
      response.headers = {{"x-good", "a\r\nx-evil: 1\r\n\r\nbody"},
                          {"x bad name", "1"},
                          {"x-colon: 1\r\nx-split", "1"},
                          {"Content-Length", "1000"},
                          {"x-utf8", "é"}};
      return writer->respond(std::move(response));
    }
    if (request.path == "/big") return writer->respond(text(std::string(8 << 20, 'b')));
    if (request.path == "/noted") {
      writer->note([](RequestNote& note) { note.generated_tokens += 3; });
      writer->note([](RequestNote& note) { note.generated_tokens += 4; });
    }
    writer->respond(
        text(request.method + " " + request.path + "?" + request.query + " " + request.body));
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<ResponseWriter>> held_;
};

class HttpServerTest : public testing::Test {
 protected:
  // Starts the server with the options as the test has set them.
  uint16_t start() {
    options.port = 0;
    options.access_log = [this](const AccessRecord& record) {
      const std::lock_guard lock(log_mutex_);
      log_.push_back(record);
    };
    server = std::make_unique<HttpServer>(options, handler.function());
    return server->port();
  }

  std::vector<AccessRecord> log() {
    const std::lock_guard lock(log_mutex_);
    return log_;
  }
  void clear_log() {
    const std::lock_guard lock(log_mutex_);
    log_.clear();
  }

 private:
  std::mutex log_mutex_;
  std::vector<AccessRecord> log_;

 protected:
  HttpServerOptions options;
  TestHandler handler;
  std::unique_ptr<HttpServer> server;
};

}  // namespace lorax
