// Whatever allocation fails: the request, the load or the line is lost, with an error, and nothing
// else. All books are at rest afterwards, and what comes next is as if nothing had been.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "allocations.h"
#include "base/error.h"
#include "cli/options.h"
#include "engine/engine.h"
#include "server/api.h"
#include "server/api/adapter_directory.h"
#include "server/api/router.h"
#include "server/api/template_chat_renderer.h"
#include "server/api/worker_pool.h"
#include "server/http/http_server.h"
#include "server/http/testing/test_client.h"
#include "server/observe/log.h"
#include "server/observe/metrics.h"
#include "text/tokenizer.h"

namespace lorax {
namespace {

using testing::FailingAllocations;
using testing::Spared;

constexpr const char* kModel = "models/tiny-gemma2";
constexpr const char* kAdapters = "models/tiny-gemma2/adapters";
constexpr int64_t kBursts[] = {1, 3, 40};

// Runs `attempt` with each allocation failing in its turn, and some behind it, until none is left
// to fail; then `check`. Steps grow: the first ones are the ones of the request itself.
template <typename Attempt, typename Check>
void sweep(int64_t most, Attempt attempt, Check check) {
  for (const int64_t burst : kBursts) {
    bool failed = true;
    for (int64_t first = 0; failed; first += 1 + first / 200) {
      ASSERT_LT(first, most) << "there is no end to it";
      SCOPED_TRACE(::testing::Message() << "allocation " << first << ", burst " << burst);
      FailingAllocations failing(first, burst);
      attempt();
      failing.stop();
      failed = FailingAllocations::failed();
      check();
      if (::testing::Test::HasFailure()) return;
    }
  }
}

// What became of a request, without an allocation of the engine's threads.
class Outcome final : public GenerationSink {
 public:
  void on_prompt(std::vector<TokenInfo>) override {}
  void on_token(GeneratedToken token) override {
    const Spared spared;
    const std::lock_guard lock(mutex_);
    ids_.push_back(token.token.id);
  }
  void on_end(GenerationEnd end) override {
    const Spared spared;
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(end_.has_value());
    end_ = std::move(end);
    ended_.notify_all();
  }
  const GenerationEnd& wait() {
    std::unique_lock lock(mutex_);
    const bool ended = ended_.wait_for(lock, std::chrono::seconds(60), [&] { return !!end_; });
    if (!ended) fail("a request has not ended");
    return *end_;
  }
  const std::vector<int32_t>& ids() const { return ids_; }

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  std::optional<GenerationEnd> end_;
  std::vector<int32_t> ids_;
};

class MemoryTest : public ::testing::Test {
 protected:
  static EngineOptions engine_options() {
    EngineOptions options;
    options.kv_blocks = 64;
    options.max_concurrent_requests = 16;
    options.adapter_bytes = uint64_t{64} << 20;
    options.adapter_slots = 1;
    options.on_failed = [](const std::string& error) { ADD_FAILURE() << error; };
    return options;
  }

  static GenerationRequest request(const std::string& adapter) {
    GenerationRequest request;
    request.adapter = adapter;
    request.prompt = {2, 651, 651, 52};
    request.max_new_tokens = 5;
    request.alternatives = 3;
    request.prompt_logprobs = true;
    request.stop = {"never said", "\xff"};
    request.sampling.temperature = 0.0f;
    request.sampling.repetition_penalty = 1.1f;
    return request;
  }

  // The tokens, or the failure, of a request that nothing stands in the way of.
  std::vector<int32_t> generate(const std::string& adapter) {
    const auto outcome = std::make_shared<Outcome>();
    const auto submitted = engine_.submit(request(adapter), outcome);
    EXPECT_EQ(submitted.admission, GenerationService::Admission::kAccepted);
    const GenerationEnd& end = outcome->wait();
    EXPECT_EQ(end.reason, FinishReason::kLength) << end.error;
    return outcome->ids();
  }

  static std::string adapter(const std::string& name) {
    return std::filesystem::absolute(std::string(kAdapters) + "/" + name).string();
  }

  void wait_until_at_rest() {
    const auto at_rest = [&] {
      const ServiceStats stats = engine_.stats();
      const AdapterStoreStats store = engine_.adapters().stats();
      return stats.running == 0 && stats.waiting == 0 && stats.kv_blocks_used == 0 &&
             store.tickets == 0 && store.pins == 0 && store.waiting == 0;
    };
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!at_rest() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    ASSERT_TRUE(at_rest());
    ASSERT_TRUE(engine_.healthy());
  }

  LoadedModel model_ =
      LoadedModel::from_checkpoint(kModel, {.device = {.name = "cpu", .threads = 1}});
  std::unique_ptr<Tokenizer> tokenizer_ = cli::load_model_tokenizer(kModel);
  Engine engine_{model_, tokenizer_.get(), engine_options()};
};

TEST_F(MemoryTest, AGenerationFailsAlone) {
  const std::vector<int32_t> expected = generate("");
  wait_until_at_rest();
  std::shared_ptr<Outcome> outcome;
  bool submitted = false;
  sweep(
      100'000,
      [&] {
        submitted = false;
        {
          const Spared spared;
          outcome = std::make_shared<Outcome>();
        }
        try {
          GenerationRequest asked = request("");
          submitted = engine_.submit(std::move(asked), outcome).admission ==
                      GenerationService::Admission::kAccepted;
        } catch (const std::bad_alloc&) {
        }
        if (submitted) outcome->wait();
      },
      [&] {
        if (submitted) {
          const GenerationEnd& end = outcome->wait();
          const bool served = end.reason == FinishReason::kLength;
          EXPECT_TRUE(served || end.failure == FailureKind::kMemory) << end.error;
          if (served) {
            EXPECT_EQ(outcome->ids(), expected);
          }
        }
        wait_until_at_rest();
        EXPECT_EQ(generate(""), expected);
        wait_until_at_rest();
      });
  // All places have come back, from whatever it was that failed.
  std::vector<std::shared_ptr<Outcome>> all;
  for (int i = 0; i < 16; ++i) {
    all.push_back(std::make_shared<Outcome>());
    EXPECT_EQ(engine_.submit(request(""), all.back()).admission,
              GenerationService::Admission::kAccepted);
  }
  for (const auto& one : all) one->wait();
}

TEST_F(MemoryTest, AnAdaptersLoadFailsAlone) {
  const std::vector<int32_t> expected = generate(adapter("caps"));
  AdapterStore& store = engine_.adapters();
  bool ready = false;
  std::string error;
  sweep(
      100'000,
      [&] {
        ready = false;
        try {
          // One slot: each drives the other out.
          for (const char* name : {"pirate", "caps"}) {
            const AdapterTicket ticket = store.request(adapter(name));
            store.wait(ticket);
            const Spared spared;
            ready = ticket.state() == AdapterTicket::State::kReady;
            if (!ready) error = ticket.error();
          }
        } catch (const std::bad_alloc&) {
          ready = true;  // no request at all
        }
      },
      [&] {
        if (!ready) {
          EXPECT_NE(error.find("memory"), std::string::npos) << error;
        }
        wait_until_at_rest();
        EXPECT_EQ(generate(adapter("caps")), expected);
        store.forget(adapter("pirate"));
        store.forget(adapter("caps"));
        wait_until_at_rest();
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
        while (store.stats().host.bytes > 0 && std::chrono::steady_clock::now() < end) {
          std::this_thread::yield();
        }
        const AdapterStoreStats stats = store.stats();
        EXPECT_EQ(stats.host.bytes, 0u);
        EXPECT_EQ(stats.slots_used, 0);
        EXPECT_EQ(stats.host.loads, stats.host.evictions + stats.host.dropped);
        EXPECT_EQ(stats.device.loads, stats.device.evictions + stats.device.dropped);
      });
}

// The whole of a server, as `lorax serve` puts it together.
class MemoryHttpTest : public MemoryTest {
 protected:
  Router make_router() {
    Router router(RouterOptions{});
    ApiSettings settings;
    settings.model_id = "tiny";
    settings.eos_token_ids = model_.info().eos_token_ids;
    settings.vocab_size = static_cast<int32_t>(model_.info().vocab_size);
    const ApiContext context{engine_, *tokenizer_, adapters_, chat_, metrics_, workers_, settings};
    for (const ApiRoute& route : make_api_routes(context)) {
      router.add(route.method, route.path, route.handler);
    }
    return router;
  }

  static HttpServerOptions http_options() {
    HttpServerOptions options;
    options.port = 0;
    return options;
  }

  static std::string post(const std::string& path, const std::string& body) {
    return "POST " + path +
           " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
           "Content-Type: application/json\r\nContent-Length: " +
           std::to_string(body.size()) + "\r\n\r\n" + body;
  }

  // All that comes until the connection ends.
  std::string ask(const std::string& request) const {
    const Spared spared;
    TestClient client(server_.port());
    client.send(request);
    return client.receive_all(20'000);
  }

  void sweep_requests(const std::string& request, const std::string& mark) {
    ASSERT_NE(ask(request).find(mark), std::string::npos) << ask(request);
    std::string answer;
    sweep(
        100'000, [&] { answer = ask(request); },
        [&] {
          // Nothing, the answer, or an error that came before or in its midst.
          const bool sound = answer.empty() || answer.starts_with("HTTP/1.1 200 ") ||
                             answer.starts_with("HTTP/1.1 503 ") ||
                             answer.starts_with("HTTP/1.1 500 ") ||
                             answer.starts_with("HTTP/1.1 424 ");
          EXPECT_TRUE(sound) << answer;
          // It ends, and does not wait for what has been lost.
          const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
          while (server_.connections() > 0 && std::chrono::steady_clock::now() < end) {
            std::this_thread::yield();
          }
          EXPECT_EQ(server_.connections(), 0u);
          const std::string next = ask(request);
          EXPECT_NE(next.find(mark), std::string::npos) << next;
          wait_until_at_rest();
          EXPECT_TRUE(workers_.wait_until_idle(std::chrono::seconds(30)));
        });
  }

  AdapterDirectory adapters_{std::filesystem::path(kAdapters)};
  TemplateChatRenderer chat_{load_chat_templates(kModel), *tokenizer_, {}, adapters_.bounds()};
  Metrics metrics_{{.service = &engine_,
                    .adapters = [this] { return engine_.adapters().stats(); },
                    .adapter_name = [this](const std::string& id) { return adapters_.name_of(id); },
                    .block_size = KvCache::kBlockSize,
                    .dropped_log_lines = [] { return uint64_t{0}; }}};
  WorkerPool workers_{{}, [](const std::exception_ptr&) {}};
  HttpServer server_{http_options(), make_router()};
};

TEST_F(MemoryHttpTest, ARequestFailsAlone) {
  sweep_requests(
      post("/generate", R"({"inputs": "In the beginning", "parameters": {"max_new_tokens": 3}})"),
      "generated_text");
}

TEST_F(MemoryHttpTest, AStreamFailsAlone) {
  sweep_requests(post("/v1/chat/completions",
                      R"({"model": "tiny", "max_tokens": 3, "temperature": 0, "stream": true,
                          "messages": [{"role": "user", "content": "hi"}]})"),
                 "[DONE]");
}

TEST(MemoryLogTest, ALineIsLostAlone) {
  int ends[2] = {-1, -1};
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  {
    Log log({.output = ends[1], .errors = ends[1]});
    sweep(
        10'000,
        [&] {
          const auto text = [] {
            const Spared spared;
            return std::string("a line that is long enough to need memory of its own");
          };
          log.warn_once("adapter 7: \"a file\" is odd");
          log.print(LogLevel::kInfo, text());
          log.error("another line, which quotes \x01 what a client has said");
        },
        [&] {
          std::string seen;
          log.error("the next line");
          const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
          while (seen.find("the next line") == std::string::npos &&
                 std::chrono::steady_clock::now() < end) {
            char bytes[4096];
            const ssize_t got = ::read(ends[0], bytes, sizeof(bytes));
            if (got > 0) seen.append(bytes, static_cast<size_t>(got));
          }
          EXPECT_NE(seen.find("the next line"), std::string::npos) << seen;
        });
  }
  ::close(ends[0]);
  ::close(ends[1]);
}

}  // namespace
}  // namespace lorax
