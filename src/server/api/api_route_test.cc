// Where requests are dealt with: on workers, whose time adapters share.
#include "server/api/api_route.h"

#include <future>
#include <thread>

#include "server/testing/api_fixture.h"

namespace lorax {
namespace {

class ApiRouteTest : public ApiTest {
 protected:
  // JSON that is longer than a short body.
  static std::string padded(const std::string& body) {
    return body.substr(0, body.size() - 1) + std::string(kShortBody, ' ') + "}";
  }
  // Keeps all workers busy until the promise is kept.
  void block_workers() {
    for (int i = 0; i <= workers_.threads(); ++i) {
      ASSERT_TRUE(workers_
                      .try_run({.flow = "blocker " + std::to_string(i),
                                .run = [gate = gate_](Claim&) { gate.wait(); }})
                      .taken);
    }
  }
  void release_workers() { open_gate_.set_value(); }

  static std::string chat_of(const std::string& adapter) {
    return R"({"messages": [{"role": "user", "content": "a"}], "model": ")" + adapter + R"("})";
  }

  static constexpr const char* kOfCaps = R"({"inputs": "a", "parameters": {"adapter_id": "caps"}})";
  static constexpr const char* kGenerate = R"({"inputs": "a"})";
  static constexpr const char* kChat = R"({"model": "", "messages": [{"role": "user",
    "content": "a"}]})";

  std::promise<void> open_gate_;
  std::shared_future<void> gate_ = open_gate_.get_future().share();
};

// Of short bodies and long ones.
TEST_F(ApiRouteTest, NothingIsResolvedRenderedOrTokenisedOnTheCallersThread) {
  ApiSettings settings = test_settings();
  settings.metrics = [](const HttpRequest&) { return json_response("{}"); };
  configure(settings);
  block_workers();
  std::vector<Writer> waiting;
  for (const bool is_long : {false, true}) {
    const auto body = [&](const char* text) { return is_long ? padded(text) : text; };
    waiting.push_back(hand_over("POST", "/generate", body(kGenerate)));
    waiting.push_back(hand_over("POST", "/tokenize", body(kGenerate)));
    waiting.push_back(hand_over("POST", "/v1/chat/completions", body(kChat)));
  }
  waiting.push_back(hand_over("GET", "/v1/models"));
  waiting.push_back(hand_over("GET", "/v1/models/caps"));
  waiting.push_back(hand_over("GET", "/metrics"));
  for (const Writer& writer : waiting) EXPECT_FALSE(writer->ended());
  EXPECT_EQ(service_.requests().size(), 0u);
  for (const char* path : {"/health", "/info", "/api-doc/openapi.json"}) {
    EXPECT_TRUE(hand_over("GET", path)->ended()) << path;
  }
  release_workers();
  for (const Writer& writer : waiting) EXPECT_EQ(finish(writer).status, 200);
  EXPECT_EQ(service_.requests().size(), 4u);
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
    const Writer writer = hand_over("POST", path, padded(body));
    EXPECT_EQ(finish(writer).status, 200) << path << ": " << writer->response().body;
  }
}

TEST_F(ApiRouteTest, ErrorsOfLongBodiesAreThoseOfShortOnes) {
  expect_lorax_error(post("/generate", padded(R"({"inputs": 5})")), 422, "validation", "`inputs`");
  expect_openai_error(post("/v1/chat/completions", padded(R"({"model": ""})")), 400, "messages",
                      "missing");
  EXPECT_EQ(observer_.of("failure validation"), 2);
}

// And those of an adapter that asks for little are not, nor are probes.
TEST_F(ApiRouteTest, WhereTooMuchWaitsMoreOfItIsRefused) {
  block_workers();
  std::vector<Writer> waiting;
  while (waiting.empty() || !waiting.back()->ended()) {
    ASSERT_LT(waiting.size(), 16u);
    waiting.push_back(hand_over("POST", "/generate", kGenerate));
  }
  const HttpResponse refused = waiting.back()->response();
  expect_lorax_error(refused, 429, "overloaded", "overloaded");
  EXPECT_TRUE(header(refused, "Retry-After").has_value());
  expect_openai_error(hand_over("POST", "/v1/chat/completions", kChat)->response(), 429, "",
                      "overloaded");
  EXPECT_EQ(observer_.of("failure overloaded"), 2);
  waiting.pop_back();
  waiting.push_back(hand_over("POST", "/generate", kOfCaps));
  for (int i = 0; i < 40; ++i) waiting.push_back(hand_over("GET", "/v1/models"));
  for (const Writer& writer : waiting) EXPECT_FALSE(writer->ended());
  release_workers();
  for (const Writer& writer : waiting) EXPECT_EQ(finish(writer).status, 200);
}

// One adapter's files hang, as those of a mount that has gone: its clients are told, and others
// notice nothing.
TEST_F(ApiRouteTest, AnAdapterThatHangsHangsAlone) {
  ApiSettings settings = test_settings();
  settings.preparation_time = std::chrono::milliseconds(1500);
  configure(settings);
  chat_.before = [gate = gate_](const std::string& adapter) {
    if (adapter.ends_with("pirate")) gate.wait();
  };
  std::vector<Writer> hung;
  for (int i = 0; i < 8; ++i)
    hung.push_back(hand_over("POST", "/v1/chat/completions", chat_of("pirate")));
  for (int round = 0; round < 3; ++round) {
    for (const char* adapter : {"", "caps", "modern"}) {
      EXPECT_EQ(post("/v1/chat/completions", chat_of(adapter)).status, 200) << adapter;
    }
    EXPECT_EQ(get("/v1/models").status, 200);
  }
  for (const Writer& writer : hung) {
    expect_openai_error(finish(writer), 504, "", "the adapter's folder does not answer");
  }
  EXPECT_EQ(observer_.of("failure timeout"), 8);
  const size_t generated = service_.requests().size();
  EXPECT_EQ(generated, 9u);
  release_workers();
  EXPECT_EQ(post("/v1/chat/completions", chat_of("pirate")).status, 200);
  EXPECT_EQ(service_.requests().size(), generated + 1) << "those that were told are not generated";
}

// The engine's thread has others to serve.
TEST_F(ApiRouteTest, LongAnswersAreWrittenOnAWorker) {
  service_.set_script(scripted_text(std::vector<std::string>(600, "a")));
  const Writer writer = hand_over("POST", "/generate", kGenerate);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (service_.running() == 0 && std::chrono::steady_clock::now() < end) {
    std::this_thread::yield();
  }
  block_workers();
  service_.run();
  EXPECT_FALSE(writer->ended());
  release_workers();
  EXPECT_EQ(finish(writer).status, 200);
}

TEST_F(ApiRouteTest, AClientThatLeavesBeforeItsTurnIsCancelled) {
  block_workers();
  const Writer writer = hand_over("POST", "/generate", padded(kGenerate));
  writer->disconnect();
  EXPECT_TRUE(service_.cancelled().empty());
  release_workers();
  finish(writer);
  EXPECT_EQ(service_.cancelled().size(), 1u);
  EXPECT_EQ(observer_.of("failure incomplete"), 1);
}

}  // namespace
}  // namespace lorax
