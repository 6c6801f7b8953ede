// For tests of routes: the whole API over a scripted service, the tokenizer and the adapters of
// models/tiny-gemma2, and a chat template that is easy to read.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/error.h"
#include "formats/json_file.h"
#include "server/api.h"
#include "server/http/testing/recording_writer.h"
#include "server/testing/scripted_service.h"

namespace lorax {

class PlainChat final : public ChatRenderer {
 public:
  // Called before each rendering, with the adapter's id.
  std::function<void(const std::string& adapter)> before = [](const std::string&) {};

  std::string render(const Conversation& conversation, const std::string& adapter) const override {
    before(adapter);
    std::string text = adapter.empty() ? "<bos>" : "<bos>+";
    if (const auto* mood = conversation.variables.if_contains("mood")) text += mood->as_string();
    for (const boost::json::value& message : conversation.messages) {
      const std::string role(message.at("role").as_string());
      if (role == "tool") fail("this template takes no role tool");
      text += role + ":" + text_of(message.at("content")) + "\n";
      if (const auto* weather = message.as_object().if_contains("weather")) {
        text += weather->as_string();
      }
    }
    return text + (conversation.add_generation_prompt ? "assistant:" : "");
  }
  bool reads(std::string_view variable, const std::string&) const override {
    return variable == "mood";
  }

 private:
  static std::string text_of(const boost::json::value& content) {
    if (content.is_string()) return std::string(content.as_string());
    std::string text;
    if (content.is_array()) {
      for (const boost::json::value& part : content.as_array()) {
        text += part.at("text").as_string();
      }
    }
    return text;
  }
};

// What is counted, by name.
class CountingObserver final : public RequestObserver {
 public:
  void on_request(std::string_view route) override { count("request " + std::string(route)); }
  void on_validated(std::chrono::nanoseconds, int64_t input_length,
                    int64_t max_new_tokens) override {
    count("validated " + std::to_string(input_length) + " " + std::to_string(max_new_tokens));
  }
  void on_first_token(std::chrono::nanoseconds) override { count("first"); }
  void on_next_token(std::chrono::nanoseconds) override { count("next"); }
  void on_success(const RequestReport& report) override {
    count("success " + std::string(report.route) + " " + report.adapter);
  }
  void on_failure(std::string_view error) override { count("failure " + std::string(error)); }

  int of(const std::string& name) const {
    const std::lock_guard lock(mutex_);
    const auto found = counts_.find(name);
    return found == counts_.end() ? 0 : found->second;
  }

 private:
  void count(const std::string& name) {
    const std::lock_guard lock(mutex_);
    ++counts_[name];
  }

  mutable std::mutex mutex_;
  std::map<std::string, int> counts_;
};

inline const Tokenizer& tiny_tokenizer() {
  static const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer("models/tiny-gemma2");
  return *tokenizer;
}

inline ApiSettings test_settings() {
  ApiSettings settings;
  settings.model_id = "models/tiny-gemma2";
  settings.version = "0.1.0";
  settings.started = 1700000000;
  settings.eos_token_ids = {1};
  settings.vocab_size = tiny_tokenizer().vocab_size();
  return settings;
}

class ApiTest : public testing::Test {
 protected:
  using Writer = std::shared_ptr<RecordingWriter>;

  // Starts the API anew with these settings.
  void configure(ApiSettings settings) {
    routes_ = make_api_routes(
        {service_, tiny_tokenizer(), adapters_, chat_, observer_, workers_, std::move(settings)});
  }

  const HttpHandler& handler(std::string_view method, std::string_view path) {
    if (routes_.empty()) configure(test_settings());
    const ApiRoute* best = nullptr;
    for (const ApiRoute& route : routes_) {
      const bool is_below = route.path.ends_with("/*") &&
                            path.starts_with(route.path.substr(0, route.path.size() - 1));
      if (route.method == method && (route.path == path || (is_below && best == nullptr))) {
        best = &route;
      }
    }
    if (best == nullptr) fail("no route {} {}", method, path);
    return best->handler;
  }

  // Hands the request to its route, and waits until the workers are through; the service is not
  // run.
  Writer send(std::string method, std::string path, std::string body = "") {
    const Writer writer = hand_over(std::move(method), std::move(path), std::move(body));
    wait_for_workers();
    return writer;
  }
  void wait_for_workers() { EXPECT_TRUE(workers_.wait_until_idle(std::chrono::seconds(60))); }
  // The same without waiting.
  Writer hand_over(std::string method, std::string path, std::string body = "") {
    auto writer = std::make_shared<RecordingWriter>();
    HttpRequest request;
    request.method = std::move(method);
    request.path = std::move(path);
    request.headers = {{"Content-Type", "application/json"}};
    request.body = std::move(body);
    request.tenant = tenant_;
    handler(request.method, request.path)(request, writer);
    return writer;
  }

  // Sends, runs the service, and returns the response.
  HttpResponse call(std::string method, std::string path, std::string body = "") {
    return finish(hand_over(std::move(method), std::move(path), std::move(body)));
  }
  // Runs the service until the response has come from the workers and from it.
  HttpResponse finish(const Writer& writer) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!writer->ended() && std::chrono::steady_clock::now() < end) {
      service_.run();
      std::this_thread::yield();
    }
    EXPECT_TRUE(writer->ended());
    service_.run();  // what was cancelled
    return writer->response();
  }
  HttpResponse post(std::string path, std::string body) {
    return call("POST", std::move(path), std::move(body));
  }
  HttpResponse get(std::string path) { return call("GET", std::move(path)); }

  static std::optional<std::string> header(const HttpResponse& response, std::string_view name) {
    for (const auto& [key, value] : response.headers) {
      if (key == name) return value;
    }
    return std::nullopt;
  }

  // The response is this error of LoRAX's form.
  static void expect_lorax_error(const HttpResponse& response, int status, std::string_view type,
                                 std::string_view part) {
    EXPECT_EQ(response.status, status) << response.body;
    const boost::json::value body = parse_json(response.body, "response");
    EXPECT_EQ(body.at("error_type").as_string(), type) << response.body;
    EXPECT_NE(std::string(body.at("error").as_string()).find(part), std::string::npos)
        << response.body << "\n  lacks: " << part;
  }

  // The response is this error of OpenAI's form.
  static void expect_openai_error(const HttpResponse& response, int status, std::string_view param,
                                  std::string_view part) {
    EXPECT_EQ(response.status, status) << response.body;
    const boost::json::value body = parse_json(response.body, "response");
    const boost::json::object& error = body.at("error").as_object();
    EXPECT_EQ(error.at("param").is_null() ? "" : error.at("param").as_string(), param)
        << response.body;
    EXPECT_NE(std::string(error.at("message").as_string()).find(part), std::string::npos)
        << response.body << "\n  lacks: " << part;
  }

  AdapterDirectory adapters_{"models/tiny-gemma2/adapters"};
  std::shared_ptr<const Tenant> tenant_;  // of requests from now on
  PlainChat chat_;
  CountingObserver observer_;
  ScriptedService service_;  // after what its requests refer to
  WorkerPool workers_{
      {.threads = 2, .most_pending = 16, .stuck_after = std::chrono::milliseconds(40)},
      [](const std::exception_ptr&) { ADD_FAILURE() << "work has thrown"; }};
  std::vector<ApiRoute> routes_;
};

}  // namespace lorax
