// Lifetimes and races of responses: run under ASan and TSan, too.
#include "server/api/response_task.h"

#include <thread>

#include "base/eventually.h"
#include "server/testing/api_fixture.h"

namespace lorax {
namespace {

class ResponseTaskTest : public ApiTest {
 protected:
  static constexpr const char* kStream = R"({"inputs": "a"})";
  static constexpr const char* kBestOf =
      R"({"inputs": "a", "parameters": {"best_of": 2, "do_sample": true}})";
  static constexpr const char* kChoices = R"({"model": "", "prompt": "a", "n": 3, "stream": true})";
};

TEST_F(ResponseTaskTest, DisconnectCancels) {
  const Writer writer = send("POST", "/generate_stream", kStream);
  service_.step();
  writer->disconnect();
  EXPECT_EQ(service_.cancelled().size(), 1u);
  service_.run();
  EXPECT_TRUE(writer->ended());
  EXPECT_EQ(observer_.of("failure incomplete"), 1);
}

TEST_F(ResponseTaskTest, DisconnectCancelsAllGenerations) {
  const Writer writer = send("POST", "/v1/completions", kChoices);
  writer->disconnect();
  EXPECT_EQ(service_.cancelled().size(), 3u);
  service_.run();
  EXPECT_EQ(service_.running(), 0u);
}

TEST_F(ResponseTaskTest, AClientThatWentBeforeItsHandlerWasThrough) {
  auto writer = std::make_shared<RecordingWriter>();
  writer->disconnect();
  HttpRequest request;
  request.body = kStream;
  handler("POST", "/generate_stream")(request, writer);
  wait_for_workers();
  EXPECT_EQ(service_.cancelled().size(), 1u);
  service_.run();
  EXPECT_TRUE(writer->ended());
}

TEST_F(ResponseTaskTest, NothingIsCancelledAfterTheEnd) {
  const Writer writer = send("POST", "/generate", kStream);
  service_.run();
  writer->disconnect();
  EXPECT_TRUE(service_.cancelled().empty());
}

TEST_F(ResponseTaskTest, NothingHoldsTheWriterAfterTheEnd) {
  for (const auto& [path, body] : std::vector<std::pair<std::string, std::string>>{
           {"/generate", kBestOf}, {"/generate_stream", kStream}, {"/v1/completions", kChoices}}) {
    Writer writer = send("POST", path, body);
    const std::weak_ptr<RecordingWriter> watch = writer;
    service_.step();
    writer->disconnect();
    writer.reset();
    EXPECT_FALSE(watch.expired());
    service_.run();
    EXPECT_TRUE(watch.expired()) << path;
  }
}

TEST_F(ResponseTaskTest, TheServiceEndsFirst) {
  const Writer writer = send("POST", "/generate", kBestOf);
  const Writer stream = send("POST", "/generate_stream", kStream);
  service_.stop();
  expect_lorax_error(writer->response(), 500, "incomplete_generation", "Incomplete generation");
  EXPECT_TRUE(stream->response().body.ends_with(
      "data: {\"error\":\"Incomplete generation\",\"error_type\":\"incomplete_generation\"}\n\n"));
  EXPECT_TRUE(stream->ended());
}

// The first failure answers, and the others are cancelled; what they say after it is dropped.
TEST_F(ResponseTaskTest, OneOfSeveralFails) {
  service_.set_writer([](const GenerationRequest&, size_t number) {
    return number % 3 == 1 ? scripted_failure(FailureKind::kRequest, "NaN")
                           : scripted_text({"a", "b", "c"});
  });
  const Writer writer = send("POST", "/v1/completions", kChoices);
  const Writer best = send("POST", "/generate", kBestOf);
  service_.step();
  EXPECT_TRUE(writer->response().body.ends_with("\"generation_failed\"}}\n\n"));
  expect_lorax_error(best->response(), 424, "generation", "NaN");
  const std::vector<RequestId> cancelled = service_.cancelled();
  EXPECT_EQ(cancelled, (std::vector<RequestId>{1, 2, 3, 4, 5}));
  EXPECT_FALSE(service_.step());
  EXPECT_EQ(observer_.of("failure generation"), 2);
}

// Whoever has its answer has its places back, though the engine still holds what it cancelled.
TEST_F(ResponseTaskTest, ATenantsPlacesComeBackWithTheAnswer) {
  auto tenant = std::make_shared<Tenant>();
  tenant->name = "alice";
  tenant->limits.max_concurrent_requests = 3;
  tenant_ = tenant;
  enum class Kind { kGood, kFails, kRefused };
  Kind kind = Kind::kGood;
  service_.set_writer([&](const GenerationRequest&, size_t number) {
    Script script = scripted_text({"a", "b", "c"});
    if (number % 3 != 2) return script;
    if (kind == Kind::kFails) return scripted_failure(FailureKind::kRequest, "NaN");
    if (kind == Kind::kRefused) script.admission = GenerationService::Admission::kOverloaded;
    return script;
  });
  for (const Kind next : {Kind::kFails, Kind::kRefused, Kind::kGood, Kind::kRefused}) {
    kind = next;
    service_.forget_requests();  // their numbers begin anew
    const Writer writer = send("POST", "/v1/completions", kChoices);
    EXPECT_EQ(tenant->usage->running(), kind == Kind::kRefused ? 0 : 3);
    while (!writer->ended() && service_.step()) {
    }
    ASSERT_TRUE(writer->ended());
    EXPECT_EQ(service_.running() > 0, kind != Kind::kGood) << "some are cancelled, not ended";
    EXPECT_EQ(tenant->usage->running(), 0);
    service_.run();
    EXPECT_EQ(tenant->usage->running(), 0);
  }
}

// What the access log gets to know.
TEST_F(ResponseTaskTest, NotesOfAGeneration) {
  const Writer whole =
      send("POST", "/generate", R"({"inputs": "a", "parameters": {"adapter_id": "caps"}})");
  const Writer stream = send("POST", "/generate_stream", kStream);
  service_.step();
  const RequestNote early = stream->noted();
  EXPECT_TRUE(early.generates);
  EXPECT_EQ(early.generated_tokens, 1);
  EXPECT_GT(early.prompt_tokens, 0);
  EXPECT_TRUE(early.first_token.has_value());
  EXPECT_EQ(early.finish, "");
  service_.run();
  EXPECT_EQ(whole->noted().adapter, "caps");
  EXPECT_FALSE(whole->noted().streamed);
  for (const Writer& writer : {whole, stream}) {
    const RequestNote note = writer->noted();
    EXPECT_EQ(note.generated_tokens, 2);
    EXPECT_EQ(note.finish, "length");
    EXPECT_EQ(note.error, "");
    EXPECT_FALSE(note.failed);
    EXPECT_TRUE(note.queue.has_value());
  }
  EXPECT_TRUE(stream->noted().streamed);
}

TEST_F(ResponseTaskTest, NotesOfSeveralGenerationsAreSums) {
  const Writer writer = send("POST", "/v1/completions", kChoices);
  service_.run();
  EXPECT_EQ(writer->noted().generated_tokens, 6);
}

TEST_F(ResponseTaskTest, NotesOfFailures) {
  service_.set_script(scripted_failure(FailureKind::kRequest, "NaN"));
  const Writer failed = send("POST", "/generate_stream", kStream);
  service_.run();
  EXPECT_EQ(failed->response().status, 200);
  EXPECT_TRUE(failed->noted().failed);
  EXPECT_EQ(failed->noted().finish, "failed");
  EXPECT_EQ(failed->noted().error, "generation: NaN");
  const Writer refused = send("POST", "/generate", R"({"inputs": 1})");
  EXPECT_TRUE(refused->noted().error.starts_with("validation: ")) << refused->noted().error;
  EXPECT_FALSE(refused->noted().failed);
}

// There is nothing to cancel, and the engine is not woken.
TEST_F(ResponseTaskTest, TheLastOneFails) {
  service_.set_writer([](const GenerationRequest&, size_t number) {
    Script script = scripted_failure(FailureKind::kRequest, "NaN");
    return number == 0 ? script : scripted_text({});
  });
  send("POST", "/generate", kStream);
  service_.run();
  EXPECT_TRUE(service_.cancelled().empty());
}

// Tokens that come while a request's later generations are still being refused are dropped.
TEST_F(ResponseTaskTest, RefusedInTheMidstWhileTheEngineRuns) {
  service_.set_writer([](const GenerationRequest&, size_t number) {
    Script script = scripted_text({"a", "b"});
    if (number % 3 == 2) script.admission = GenerationService::Admission::kOverloaded;
    return script;
  });
  service_.start();
  for (int i = 0; i < 200; ++i) {
    const Writer writer = send("POST", "/v1/completions", kChoices);
    expect_openai_error(writer->response(), 429, "", "overloaded");
  }
  service_.stop();
  EXPECT_EQ(observer_.of("failure overloaded"), 200);
}

// Handlers, the engine and disconnects on threads of their own.
TEST_F(ResponseTaskTest, ClientsComeAndGoWhileTheEngineRuns) {
  configure(test_settings());
  service_.set_limits({60, 64, 8, 8});
  service_.set_writer([](const GenerationRequest&, size_t number) {
    if (number % 7 == 3) return scripted_failure(FailureKind::kAdapter, "bad");
    Script script = scripted_text({"a", "b", "c", "d"});
    script.pace = std::chrono::microseconds(number % 5 * 10);
    return script;
  });
  service_.start();
  std::vector<std::thread> clients;
  std::atomic<int> open = 0;
  for (int client = 0; client < 4; ++client) {
    clients.emplace_back([&, client] {
      for (int i = 0; i < 100; ++i) {
        const auto [path, body] = i % 3 == 0   ? std::pair("/generate", kBestOf)
                                  : i % 3 == 1 ? std::pair("/generate_stream", kStream)
                                               : std::pair("/v1/completions", kChoices);
        const Writer writer = send("POST", path, body);
        if ((i + client) % 2 == 0) writer->disconnect();
        EXPECT_TRUE(eventually([&] { return writer->ended(); }));
        ++open;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  service_.stop();
  EXPECT_EQ(open, 400);
  EXPECT_EQ(service_.running(), 0u);
}

}  // namespace
}  // namespace lorax
