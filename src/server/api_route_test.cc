// Where requests are dealt with: on the transport's thread, or on a worker.
#include "server/api_route.h"

#include <future>
#include <thread>

#include "server/api_fixture.h"

namespace lorax {
namespace {

class ApiRouteTest : public ApiTest {
 protected:
  // JSON that is longer than a short body.
  static std::string padded(const std::string& body) {
    return body.substr(0, body.size() - 1) + std::string(kShortBody, ' ') + "}";
  }
  // Keeps both workers busy until the promise is kept.
  void block_workers() {
    for (int i = 0; i < workers_.threads(); ++i) {
      ASSERT_TRUE(workers_.try_run([gate = gate_] { gate.wait(); }));
    }
  }
  void release_workers() { open_gate_.set_value(); }
  void wait_for(const Writer& writer) {
    while (!writer->ended()) service_.run();
  }

  static constexpr const char* kGenerate = R"({"inputs": "a"})";
  static constexpr const char* kChat = R"({"model": "", "messages": [{"role": "user",
    "content": "a"}]})";

 private:
  std::promise<void> open_gate_;
  std::shared_future<void> gate_ = open_gate_.get_future().share();
};

TEST_F(ApiRouteTest, LongBodiesWaitForAWorkerAndShortOnesDoNot) {
  block_workers();
  const std::vector<Writer> waiting = {send("POST", "/generate", padded(kGenerate)),
                                       send("POST", "/tokenize", padded(kGenerate))};
  const HttpResponse answer = post("/generate", kGenerate);
  EXPECT_EQ(answer.status, 200);
  const HttpResponse tokens = post("/tokenize", kGenerate);
  EXPECT_EQ(service_.requests().size(), 1u);
  for (const Writer& writer : waiting) EXPECT_FALSE(writer->ended());
  release_workers();
  for (const Writer& writer : waiting) wait_for(writer);
  EXPECT_EQ(waiting[0]->response().body, answer.body);
  EXPECT_EQ(waiting[1]->response().body, tokens.body);
  EXPECT_EQ(service_.requests().size(), 2u);
}

TEST_F(ApiRouteTest, EveryRouteThatTakesTextUsesThem) {
  for (const auto& [path, body] : std::vector<std::pair<std::string, std::string>>{
           {"/", kGenerate},
           {"/invocations", kGenerate},
           {"/generate", kGenerate},
           {"/generate_stream", kGenerate},
           {"/tokenize", kGenerate},
           {"/v1/completions", R"({"model": "", "prompt": "a"})"},
           {"/v1/chat/completions", kChat}}) {
    const Writer writer = send("POST", path, padded(body));
    wait_for(writer);
    EXPECT_EQ(writer->response().status, 200) << path << ": " << writer->response().body;
  }
}

TEST_F(ApiRouteTest, ErrorsOfLongBodiesAreThoseOfShortOnes) {
  expect_lorax_error(post("/generate", padded(R"({"inputs": 5})")), 422, "validation", "`inputs`");
  expect_openai_error(post("/v1/chat/completions", padded(R"({"model": ""})")), 400, "messages",
                      "missing");
  EXPECT_EQ(observer_.of("failure validation"), 2);
}

TEST_F(ApiRouteTest, WhereTooMuchWaitsLongBodiesAreRefused) {
  block_workers();
  const std::vector<Writer> waiting = {send("POST", "/generate", padded(kGenerate)),
                                       send("POST", "/generate", padded(kGenerate))};
  const HttpResponse refused = post("/generate", padded(kGenerate));
  expect_lorax_error(refused, 429, "overloaded", "overloaded");
  EXPECT_TRUE(header(refused, "Retry-After").has_value());
  expect_openai_error(post("/v1/chat/completions", padded(kChat)), 429, "", "overloaded");
  EXPECT_EQ(observer_.of("failure overloaded"), 2);
  EXPECT_EQ(post("/generate", kGenerate).status, 200);
  release_workers();
  for (const Writer& writer : waiting) wait_for(writer);
}

TEST_F(ApiRouteTest, AClientThatLeavesBeforeItsTurnIsCancelled) {
  block_workers();
  const Writer writer = send("POST", "/generate", padded(kGenerate));
  writer->disconnect();
  EXPECT_TRUE(service_.cancelled().empty());
  release_workers();
  while (service_.cancelled().empty()) std::this_thread::yield();
  wait_for(writer);
  EXPECT_EQ(service_.cancelled().size(), 1u);
  EXPECT_EQ(observer_.of("failure incomplete"), 1);
}

}  // namespace
}  // namespace lorax
