#include "server/lorax/generate_response.h"

#include <cmath>
#include <limits>

#include "adapters/merge/merge_recipe.h"
#include "server/testing/api_fixture.h"

namespace lorax {
namespace {

using GenerateTest = ApiTest;

TEST_F(GenerateTest, TextAlone) {
  service_.set_script(scripted_text({" Hello", " world"}));
  const HttpResponse response = post("/generate", R"({"inputs": "abc"})");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.content_type, "application/json");
  EXPECT_EQ(response.body, R"({"generated_text":" Hello world"})");
  EXPECT_EQ(header(response, "x-compute-type"), "cpu");
  EXPECT_EQ(header(response, "x-compute-characters"), "3");
  EXPECT_EQ(header(response, "x-model-id"), "models/tiny-gemma2");
  EXPECT_EQ(header(response, "x-generated-tokens"), "2");
  EXPECT_EQ(header(response, "x-adapter-id"), std::nullopt);
  for (const char* name :
       {"x-compute-time", "x-total-time", "x-prompt-tokens", "x-skipped-tokens", "x-total-tokens",
        "x-validation-time", "x-queue-time", "x-inference-time", "x-time-per-token",
        "x-time-to-first-token", "x-time-per-output-token"}) {
    EXPECT_TRUE(header(response, name)) << name;
  }
}

TEST_F(GenerateTest, TimesOfTheEngine) {
  using std::chrono::milliseconds;
  Script script = scripted_text({"a", "b", "c"});
  script.end.queue_time = milliseconds(7);
  script.end.prefill_time = milliseconds(20);
  script.end.decode_time = milliseconds(10);
  service_.set_script(script);
  const HttpResponse response = post("/generate", R"({"inputs": "abc"})");
  EXPECT_EQ(header(response, "x-queue-time"), "7");
  EXPECT_EQ(header(response, "x-inference-time"), "30");
  EXPECT_EQ(header(response, "x-time-to-first-token"), "20");
  EXPECT_EQ(header(response, "x-time-per-token"), "10");
  EXPECT_EQ(header(response, "x-time-per-output-token"), "5");
}

TEST_F(GenerateTest, DetailsGolden) {
  Script script;
  script.tokens = {scripted_token(268, " a"), scripted_token(8, "\"\\\n\x7f"), scripted_eos()};
  script.prompt = {{2, "<bos>", std::nanf(""), false, {}}, {50, "abc", -1.5f, false, {}}};
  script.tokens[0].token.alternatives = {{100, " Hi", -0.5f},
                                         {7, "é", -std::numeric_limits<float>::infinity()}};
  script.end.reason = FinishReason::kEosToken;
  service_.set_script(script);
  const HttpResponse response = post("/generate", R"({"inputs": "abc", "parameters":
      {"decoder_input_details": true, "return_k_alternatives": 2, "seed": 3}})");
  const std::string prompt_tokens = *header(response, "x-prompt-tokens");
  EXPECT_EQ(response.body,
            R"({"generated_text":" a\"\\\n\u007f","details":{"finish_reason":"eos_token",)"
            R"("prompt_tokens":)" +
                prompt_tokens +
                R"(,"generated_tokens":3,"skipped_tokens":0,"seed":null,)"
                R"("prefill":[{"id":2,"text":"<bos>","logprob":null},)"
                R"({"id":50,"text":"abc","logprob":-1.5}],)"
                R"("tokens":[{"id":268,"text":" a","logprob":-0.5,"special":false,)"
                R"("alternative_tokens":[{"id":100,"text":" Hi","logprob":-0.5},)"
                R"({"id":7,"text":"é","logprob":null}],"skipped":false},)"
                R"({"id":8,"text":"\n\n","logprob":-0.5,"special":false,)"
                R"("alternative_tokens":[],"skipped":false},)"
                R"({"id":1,"text":"<eos>","logprob":-0.25,"special":true,)"
                R"("alternative_tokens":[],"skipped":false}]}})");
  EXPECT_TRUE(service_.requests()[0].prompt_logprobs);
  EXPECT_EQ(service_.requests()[0].alternatives, 2);
}

// What a client puts together of a stream's tokens is the text.
TEST_F(GenerateTest, TokensHaveTheTextThatTheyAdd) {
  Script script;
  script.tokens = {scripted_token(268, " a"), scripted_token(204, "\ufffd"),
                   scripted_token(178, "\ufffd"), scripted_token(278, " b")};
  service_.set_script(script);
  const std::string body =
      post("/generate", R"({"inputs": "x", "parameters": {"details": true}})").body;
  std::string texts;
  const boost::json::value value = parse_json(body, "body");
  for (const boost::json::value& token : value.at("details").at("tokens").as_array()) {
    texts += std::string(token.at("text").as_string()) + "|";
  }
  EXPECT_EQ(texts, " a||é| b|");
  const std::string stream = post("/generate_stream", R"({"inputs": "x"})").body;
  size_t at = 0;
  for (const char* part :
       {R"("text":" a")", R"("id":204,"text":"")", R"("id":178,"text":"é")", R"("text":" b")"}) {
    at = stream.find(part, at);
    ASSERT_NE(at, std::string::npos) << part << stream;
  }
}

TEST_F(GenerateTest, CompatRoutesAnswerWithAnArray) {
  service_.set_script(scripted_text({"x"}));
  for (const char* path : {"/", "/invocations"}) {
    EXPECT_EQ(post(path, R"({"inputs": "abc"})").body, R"([{"generated_text":"x"}])");
    EXPECT_EQ(post(path, R"({"inputs": "abc", "stream": false})").body,
              R"([{"generated_text":"x"}])");
    EXPECT_EQ(post(path, R"({"inputs": "abc", "stream": true})").content_type, "text/event-stream");
  }
}

TEST_F(GenerateTest, StopStringStaysInTheText) {
  Script script = scripted_text({" a", " b"}, FinishReason::kStopSequence);
  script.tokens[1].delta = " ";
  script.end.stop_sequence = "b";
  service_.set_script(script);
  const HttpResponse response =
      post("/generate", R"({"inputs": "abc", "parameters": {"stop": ["b"], "details": true,
                       "return_full_text": true}})");
  const boost::json::value body = parse_json(response.body, "body");
  EXPECT_EQ(body.at("generated_text").as_string(), "abc a b");
  EXPECT_EQ(body.at("details").at("finish_reason").as_string(), "stop_sequence");
  EXPECT_EQ(service_.requests()[0].stop, std::vector<std::string>{"b"});
}

TEST_F(GenerateTest, BestOfChoosesTheHighestMeanLogprob) {
  service_.set_writer([](const GenerationRequest&, size_t number) {
    Script script = scripted_text({"first", " long"});
    if (number == 1) script.tokens = {scripted_token(9, "second", -0.4f)};
    return script;
  });
  const HttpResponse response = post(
      "/generate",
      R"({"inputs": "abc", "parameters": {"best_of": 2, "temperature": 0.5, "details": true}})");
  const boost::json::value body = parse_json(response.body, "body");
  EXPECT_EQ(body.at("generated_text").as_string(), "second");
  const boost::json::array& others = body.at("details").at("best_of_sequences").as_array();
  ASSERT_EQ(others.size(), 1u);
  EXPECT_EQ(others[0].at("generated_text").as_string(), "first long");
  EXPECT_EQ(others[0].at("generated_tokens"), 2);
  const std::vector<GenerationRequest> requests = service_.requests();
  ASSERT_EQ(requests.size(), 2u);
  EXPECT_NE(requests[0].sampling.seed, requests[1].sampling.seed);
  EXPECT_EQ(body.at("details").at("seed").to_number<uint64_t>(), requests[1].sampling.seed);
  EXPECT_EQ(others[0].at("seed").to_number<uint64_t>(), requests[0].sampling.seed);
}

TEST_F(GenerateTest, StreamGolden) {
  Script script;
  script.tokens = {scripted_token(268, " a"), scripted_token(278, " b"), scripted_eos()};
  script.end.reason = FinishReason::kEosToken;
  service_.set_script(script);
  const HttpResponse response =
      post("/generate_stream",
           R"({"inputs": "ab", "parameters": {"adapter_id": "pirate", "details": true}})");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.content_type, "text/event-stream");
  EXPECT_EQ(header(response, "x-adapter-id"), "pirate");
  EXPECT_EQ(header(response, "x-adapter-source"), "local");
  EXPECT_EQ(header(response, "x-accel-buffering"), "no");
  const std::string prompt_tokens = std::to_string(service_.requests()[0].prompt.size());
  EXPECT_EQ(response.body,
            "data: {\"token\":{\"id\":268,\"text\":\" a\",\"logprob\":-0.5,\"special\":false,"
            "\"skipped\":false},\"generated_text\":null,\"details\":null}\n\n"
            "data: {\"token\":{\"id\":278,\"text\":\" b\",\"logprob\":-0.5,\"special\":false,"
            "\"skipped\":false},\"generated_text\":null,\"details\":null}\n\n"
            "data: {\"token\":{\"id\":1,\"text\":\"<eos>\",\"logprob\":-0.25,\"special\":true,"
            "\"skipped\":false},\"generated_text\":\" a b\",\"details\":{\"finish_reason\":"
            "\"eos_token\",\"prompt_tokens\":" +
                prompt_tokens + ",\"generated_tokens\":3,\"seed\":null}}\n\n");
}

// Each event goes out with its token, except that which may have to carry the text.
TEST_F(GenerateTest, StreamHoldsOnlyWhatMayBeTheLast) {
  Script script;
  for (const char* piece : {"▁a", "▁b", "▁c"}) {
    script.tokens.push_back(scripted_token(*tiny_tokenizer().find_piece(piece),
                                           std::string(" ") + std::string(piece).back()));
  }
  script.tokens[1].delta.clear();  // " b" may begin the stop string
  script.tokens[2].delta = " b c";
  service_.set_script(script);
  const Writer writer =
      send("POST", "/generate_stream",
           R"({"inputs": "ab", "parameters": {"stop": [" bx"], "max_new_tokens": 3}})");
  const auto events = [&] {
    const std::string body = writer->response().body;
    size_t count = 0;
    for (size_t at = 0; (at = body.find("data: ", at)) != std::string::npos; ++at) ++count;
    return count;
  };
  service_.step();
  EXPECT_EQ(events(), 1u);
  service_.step();
  EXPECT_EQ(events(), 1u);
  service_.step();  // the third can be the last as it reaches max_new_tokens
  EXPECT_EQ(events(), 2u);
  service_.step();
  EXPECT_EQ(events(), 3u);
  EXPECT_TRUE(writer->ended());
  EXPECT_NE(writer->response().body.find("\"generated_text\":\" a b c\""), std::string::npos);
}

TEST_F(GenerateTest, StreamThatEndsWithoutAToken) {
  service_.set_script(scripted_text({" a"}));
  const HttpResponse response = post("/generate_stream", R"({"inputs": "ab"})");
  EXPECT_NE(response.body.find("\"generated_text\":\" a\""), std::string::npos) << response.body;
}

TEST_F(GenerateTest, ErrorsInsideAStream) {
  Script script;
  script.tokens = {scripted_token(268, " a")};
  script.end = scripted_failure(FailureKind::kAdapter, "no such file").end;
  service_.set_script(script);
  const HttpResponse response = post("/generate_stream", R"({"inputs": "ab", "parameters":
                                                            {"max_new_tokens": 1}})");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body,
            "data: {\"token\":{\"id\":268,\"text\":\" a\",\"logprob\":-0.5,\"special\":false,"
            "\"skipped\":false},\"generated_text\":null,\"details\":null}\n\n"
            "data: {\"error\":\"Request failed during generation: Server error: no such file\","
            "\"error_type\":\"generation\"}\n\n");
  EXPECT_EQ(observer_.of("failure load_adapter"), 1);
}

TEST_F(GenerateTest, Failures) {
  struct Case {
    Script script;
    int status;
    const char* type;
    const char* part;
  };
  Script timed_out = scripted_text({"a"}, FinishReason::kTimedOut);
  Script cancelled = scripted_text({"a"}, FinishReason::kCancelled);
  Script stopping;
  stopping.admission = GenerationService::Admission::kStopping;
  const Case cases[] = {
      {scripted_failure(FailureKind::kAdapter, "x: bad"), 424, "generation",
       "Request failed during generation: Server error: x: bad"},
      {scripted_failure(FailureKind::kRequest, "a logit is NaN"), 424, "generation", "NaN"},
      {scripted_failure(FailureKind::kService, "device lost"), 424, "generation", "device lost"},
      {timed_out, 504, "timeout", "--max-request-time"},
      {cancelled, 500, "incomplete_generation", "Incomplete generation"},
      {stopping, 503, "unavailable", "shutting down"},
  };
  for (const Case& each : cases) {
    service_.set_script(each.script);
    expect_lorax_error(post("/generate", R"({"inputs": "abc"})"), each.status, each.type,
                       each.part);
  }
}

TEST_F(GenerateTest, Overload) {
  Script script;
  script.admission = GenerationService::Admission::kOverloaded;
  script.retry_after = std::chrono::seconds(17);
  service_.set_script(script);
  for (const char* path : {"/generate", "/generate_stream", "/"}) {
    const HttpResponse response = post(path, R"({"inputs": "abc"})");
    expect_lorax_error(response, 429, "overloaded", "Model is overloaded");
    EXPECT_EQ(header(response, "Retry-After"), "17");
  }
  EXPECT_EQ(observer_.of("failure overloaded"), 3);
}

TEST_F(GenerateTest, OverloadInTheMidstOfBestOf) {
  service_.set_writer([](const GenerationRequest&, size_t number) {
    Script script = scripted_text({"a"});
    if (number == 1) script.admission = GenerationService::Admission::kOverloaded;
    return script;
  });
  expect_lorax_error(post("/generate", R"({"inputs": "abc", "parameters":
                                          {"best_of": 2, "do_sample": true}})"),
                     429, "overloaded", "");
  EXPECT_EQ(service_.cancelled().size(), 1u);
  EXPECT_EQ(service_.running(), 0u);
}

TEST_F(GenerateTest, BodiesThatAreNoRequest) {
  struct Case {
    std::string body;
    int status;
    const char* part;
  };
  const Case cases[] = {
      {"", 400, "not valid JSON"},
      {"{", 400, "not valid JSON"},
      {"{\"inputs\": \"\xff\"}", 400, "not valid JSON"},
      {R"({"inputs": "\ud800"})", 400, "not valid JSON"},
      {R"({"inputs": "\udc00x"})", 400, "not valid JSON"},
      {"{\"inputs\": \"a\nb\"}", 400, "not valid JSON"},
      {R"({"inputs": "a", "inputs": "b"})", 400, "stands twice"},
      {R"({"inputs": "a"} x)", 400, "not valid JSON"},
      {R"({"inputs": NaN})", 400, "not valid JSON"},
      {"{\"x\": " + std::string(1000, '[') + std::string(1000, ']') + "}", 400, "not valid JSON"},
      {"[]", 422, "must be a JSON object; given a list"},
      {"null", 422, "must be a JSON object; given null"},
      {"5", 422, "must be a JSON object; given 5"},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(each.body.substr(0, 80));
    expect_lorax_error(post("/generate", each.body), each.status,
                       each.status == 400 ? "bad_request" : "validation", each.part);
  }
  // Control characters and NUL are text like any other.
  EXPECT_EQ(post("/generate", R"({"inputs": "a\u0000\u0007b"})").status, 200);
}

TEST_F(GenerateTest, ObserverSeesEachRequestEndOnce) {
  service_.set_script(scripted_text({"a", "b", "c"}));
  post("/generate", R"({"inputs": "abc"})");
  EXPECT_EQ(observer_.of("request /generate"), 1);
  EXPECT_EQ(observer_.of("success /generate "), 1);
  EXPECT_EQ(observer_.of("first"), 1);
  EXPECT_EQ(observer_.of("next"), 2);
  post("/generate", "{}");
  EXPECT_EQ(observer_.of("request /generate"), 2);
  EXPECT_EQ(observer_.of("failure validation"), 1);
}

}  // namespace
}  // namespace lorax
