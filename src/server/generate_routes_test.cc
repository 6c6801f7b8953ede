#include "server/generate_response.h"

#include <cmath>
#include <limits>

#include "adapters/merge_recipe.h"
#include "server/api_fixture.h"

namespace lorax {
namespace {

class GenerateTest : public ApiTest {
 protected:
  // The request that "/generate" makes of these parameters.
  GenerationRequest request_of(const std::string& parameters, const std::string& inputs = "abc") {
    const HttpResponse response =
        post("/generate",
             fmt::format(R"({{"inputs": "{}", "parameters": {{{}}}}})", inputs, parameters));
    EXPECT_EQ(response.status, 200) << response.body;
    return service_.requests().back();
  }

  void expect_invalid(const std::string& parameters, std::string_view part) {
    SCOPED_TRACE(parameters);
    const size_t before = service_.requests().size();
    expect_lorax_error(
        post("/generate", R"({"inputs": "abc", "parameters": {)" + parameters + "}}"), 422,
        "validation", part);
    EXPECT_EQ(service_.requests().size(), before);
  }
};

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
  Script script = scripted_text({" a", " b", " c"});
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
  service_.set_script(script);
  for (const char* path : {"/generate", "/generate_stream", "/"}) {
    const HttpResponse response = post(path, R"({"inputs": "abc"})");
    expect_lorax_error(response, 429, "overloaded", "Model is overloaded");
    EXPECT_EQ(header(response, "Retry-After"), "1");
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

TEST_F(GenerateTest, SamplingRule) {
  EXPECT_EQ(request_of("").sampling.temperature, 0.0f);
  EXPECT_EQ(request_of(R"("temperature": 1.0)").sampling.temperature, 0.0f);
  EXPECT_EQ(request_of(R"("temperature": 0.5)").sampling.temperature, 0.5f);
  EXPECT_EQ(request_of(R"("do_sample": true)").sampling.temperature, 1.0f);
  EXPECT_EQ(request_of(R"("top_k": 4)").sampling.temperature, 1.0f);
  EXPECT_EQ(request_of(R"("top_k": 4)").sampling.top_k, 4);
  EXPECT_EQ(request_of(R"("top_p": 0.5)").sampling.temperature, 1.0f);
  EXPECT_EQ(request_of(R"("top_p": 1.0)").sampling.temperature, 0.0f);
  EXPECT_EQ(request_of(R"("typical_p": 0.5)").sampling.temperature, 1.0f);
  EXPECT_EQ(request_of(R"("min_p": 0.5)").sampling.temperature, 1.0f);
  EXPECT_EQ(request_of(R"("temperature": 0, "do_sample": true)").sampling.temperature, 0.0f);
  EXPECT_EQ(request_of(R"("temperature": 1e-30, "top_k": 4)").sampling.temperature, 0.0f);
  EXPECT_GT(request_of(R"("top_p": 1e-60)").sampling.top_p, 0.0f);
  EXPECT_GT(request_of(R"("repetition_penalty": 1e-60)").sampling.repetition_penalty, 0.0f);
  EXPECT_EQ(request_of(R"("seed": 18446744073709551615, "do_sample": true)").sampling.seed,
            UINT64_MAX);
  EXPECT_NE(request_of(R"("do_sample": true)").sampling.seed,
            request_of(R"("do_sample": true)").sampling.seed);
}

TEST_F(GenerateTest, ParametersReachTheEngine) {
  const GenerationRequest request = request_of(
      R"("repetition_penalty": 1.25, "frequency_penalty": 0.5, "presence_penalty": -0.5,
         "watermark": true, "ignore_eos_token": true, "max_new_tokens": 7, "unknown": [1])");
  EXPECT_EQ(request.sampling.repetition_penalty, 1.25f);
  EXPECT_EQ(request.sampling.frequency_penalty, 0.5f);
  EXPECT_EQ(request.sampling.presence_penalty, -0.5f);
  EXPECT_TRUE(request.sampling.watermark);
  EXPECT_TRUE(request.eos_token_ids.empty());
  EXPECT_EQ(request.max_new_tokens, 7);
  EXPECT_LT(request.deadline, std::chrono::steady_clock::now() + std::chrono::minutes(11));
  EXPECT_EQ(request_of("").eos_token_ids, std::vector<int32_t>{1});
}

TEST_F(GenerateTest, NullIsTheSameAsNothing) {
  const GenerationRequest request = request_of(
      R"("adapter_id": null, "adapter_source": null, "merged_adapters": null, "api_token": null,
         "best_of": null, "temperature": null, "seed": null, "stop": null, "details": null,
         "response_format": null, "truncate": null, "top_k": null)");
  EXPECT_EQ(request.adapter, "");
  EXPECT_EQ(post("/generate", R"({"inputs": "a", "parameters": null})").status, 200);
}

TEST_F(GenerateTest, Truncation) {
  const std::vector<int32_t> whole = request_of("", "the lord is my shepherd").prompt;
  ASSERT_GT(whole.size(), 4u);
  EXPECT_EQ(whole.front(), tiny_tokenizer().bos_id());
  std::vector<int32_t> expected(whole.end() - 2, whole.end());
  expected.insert(expected.begin(), whole.front());
  EXPECT_EQ(request_of(R"("truncate": 3)", "the lord is my shepherd").prompt, expected);
  EXPECT_EQ(request_of(R"("truncate": 1)", "the lord is my shepherd").prompt,
            std::vector{whole.front()});
  EXPECT_EQ(request_of(R"("truncate": 60)", "the lord is my shepherd").prompt, whole);
  // What is cut off does not count against the limits.
  std::string text;
  for (int i = 0; i < 200; ++i) text += "lord ";
  EXPECT_EQ(request_of(R"("truncate": 5, "max_new_tokens": 59)", text).prompt.size(), 5u);
}

TEST_F(GenerateTest, APromptMayBringItsOwnBos) {
  EXPECT_EQ(request_of("", "<bos>abc").prompt, request_of("", "abc").prompt);
}

TEST_F(GenerateTest, ChatTemplate) {
  const std::vector<int32_t> prompt = request_of(R"("apply_chat_template": true)", "hi").prompt;
  EXPECT_EQ(tiny_tokenizer().decode(prompt, false), "<bos>user:hi\nassistant:");
}

TEST_F(GenerateTest, LengthLimits) {
  const int64_t length = static_cast<int64_t>(request_of("").prompt.size());
  EXPECT_EQ(service_.requests().back().max_new_tokens, 64 - length);
  expect_invalid(R"("max_new_tokens": 64)",
                 fmt::format("Input validation error: `inputs` tokens + `max_new_tokens` must be "
                             "<= 64. Given: {} `inputs` tokens and 64 `max_new_tokens`",
                             length));
  expect_invalid(R"("max_new_tokens": 9223372036854775807)", "must be <= 64");
  std::string text;
  for (int i = 0; i < 200; ++i) text += "lord ";
  expect_lorax_error(post("/generate", R"({"inputs": ")" + text + "\"}"), 422, "validation",
                     "`inputs` must have at most 60 tokens");
}

TEST_F(GenerateTest, Adapters) {
  const std::string root = std::filesystem::canonical("models/tiny-gemma2/adapters").string();
  EXPECT_EQ(request_of(R"("adapter_id": "pirate")").adapter, root + "/pirate");
  EXPECT_EQ(request_of(R"("adapter_id": "pirate", "adapter_source": "LOCAL")").adapter,
            root + "/pirate");
  EXPECT_EQ(request_of(R"("adapter_id": "")").adapter, "");
  EXPECT_EQ(request_of(R"("adapter_id": "__base_model__", "api_token": "x")").adapter, "");
  const HttpResponse response =
      post("/generate", R"({"inputs": "a", "parameters": {"adapter_id": "caps"}})");
  EXPECT_EQ(header(response, "x-adapter-id"), "caps");
  EXPECT_EQ(observer_.of("success /generate caps"), 1);
}

TEST_F(GenerateTest, MergedAdapters) {
  const std::string root = std::filesystem::canonical("models/tiny-gemma2/adapters").string();
  const std::string id =
      request_of(R"("merged_adapters": {"ids": ["pirate", "caps"], "weights": [0.5, 2],
                    "merge_strategy": "ties", "density": 0.25,
                    "majority_sign_method": "frequency", "other": 1})")
          .adapter;
  const std::optional<MergeRecipe> recipe = parse_merge_id(id);
  ASSERT_TRUE(recipe);
  EXPECT_EQ(recipe->ids, (std::vector{root + "/pirate", root + "/caps"}));
  EXPECT_EQ(recipe->parameters.weights, (std::vector{0.5, 2.0}));
  EXPECT_EQ(recipe->parameters.strategy, MergeStrategy::kTies);
  EXPECT_EQ(recipe->parameters.density, 0.25);
  EXPECT_EQ(recipe->parameters.majority_sign_method, MajoritySign::kFrequency);

  const std::optional<MergeRecipe> plain = parse_merge_id(
      request_of(R"("merged_adapters": {"ids": ["pirate", "caps"], "density": 0.0})").adapter);
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->parameters.weights, (std::vector{1.0, 1.0}));
  EXPECT_EQ(request_of(R"("merged_adapters": {"ids": ["caps"]})").adapter, root + "/caps");
  const HttpResponse response = post("/generate", R"({"inputs": "a", "parameters":
      {"merged_adapters": {"ids": ["pirate", "caps"]}}})");
  EXPECT_EQ(header(response, "x-adapter-id"), "pirate,caps");
}

TEST_F(GenerateTest, WrongAdapters) {
  expect_invalid(R"("adapter_id": "pirate", "merged_adapters": {"ids": ["caps"]})",
                 "at most one of `adapter_id`");
  expect_invalid(R"("merged_adapters": {"ids": []})", "at least one adapter ID");
  expect_invalid(R"("merged_adapters": {})", "`ids` is missing");
  expect_invalid(R"("merged_adapters": {"ids": ["pirate", "caps"], "weights": [1]})",
                 "number of adapter IDs must match");
  expect_invalid(R"("merged_adapters": {"ids": ["pirate", "__base_model__"]})",
                 "base model cannot be merged");
  expect_invalid(R"("merged_adapters": {"ids": ["pirate", "caps"], "merge_strategy": "x\u0001"})",
                 "linear");
  expect_invalid(R"("merged_adapters": {"ids": ["pirate", "caps"], "merge_strategy": "ties"})",
                 "density");
  expect_invalid(R"("merged_adapters": {"ids": ["pirate", "caps"], "majority_sign_method": "x"})",
                 "frequency");
  expect_invalid(R"("merged_adapters": {"ids": ["pirate", "caps"], "weights": [1, 1e39]})",
                 "too large");
  expect_invalid(R"("merged_adapters": {"ids": ["pirate", "caps"], "density": 1.5})",
                 "`density` must be >= 0 and <= 1");
  expect_invalid(R"("merged_adapters": [])", "must be an object");
  expect_invalid(R"("adapter_source": "hub", "adapter_id": "pirate")", "not supported");
  expect_invalid(R"("adapter_source": "x\u0000y")", "x\\x00y");
  expect_invalid(R"("adapter_id": "../caps")", "..");
  expect_invalid(R"("adapter_id": "/etc")", "absolute path");
  expect_invalid(R"("adapter_id": "a\nb")", "control character");
  expect_lorax_error(
      post("/generate", R"({"inputs": "a", "parameters": {"adapter_id": "nobody"}})"), 424,
      "generation",
      "Request failed during generation: Server error: adapter \"nobody\" does not exist");
  std::string many = R"("merged_adapters": {"ids": ["pirate")";
  for (int i = 0; i < 16; ++i) many += ", \"pirate\"";
  expect_invalid(many + "]}", "up to 16");
}

TEST_F(GenerateTest, ParametersOutOfRange) {
  expect_invalid(R"("best_of": 2)", "you must use sampling when `best_of` is > 1");
  expect_invalid(R"("best_of": 3, "do_sample": true)", "`best_of` must be > 0 and <= 2. Given: 3");
  expect_invalid(R"("best_of": 0)", "`best_of` must be > 0 and <= 2. Given: 0");
  expect_invalid(R"("best_of": 2, "do_sample": true, "seed": 1)", "`seed` must not be set");
  expect_invalid(R"("temperature": -0.1)", "`temperature` must be >= 0. Given: -0.1");
  expect_invalid(R"("temperature": 1e39)", "too large");
  expect_invalid(R"("repetition_penalty": 0)", "`repetition_penalty` must be strictly positive");
  expect_invalid(R"("frequency_penalty": 2.5)", "`frequency_penalty` must be >= -2 and <= 2");
  expect_invalid(R"("presence_penalty": -2.5)", "`presence_penalty` must be >= -2 and <= 2");
  expect_invalid(R"("top_p": 0)", "`top_p` must be > 0 and <= 1");
  expect_invalid(R"("top_p": 1.1)", "`top_p` must be > 0 and <= 1. Given: 1.1");
  expect_invalid(R"("typical_p": 1)", "`typical_p` must be > 0 and < 1");
  expect_invalid(R"("min_p": 1.5)", "`min_p`");
  expect_invalid(R"("top_k": 0)", "`top_k` must be strictly positive");
  expect_invalid(R"("top_k": -1)", "`top_k` must be strictly positive");
  expect_invalid(R"("return_k_alternatives": 0)", "`return_k_alternatives` must be > 0");
  expect_invalid(R"("return_k_alternatives": 1000)", "`return_k_alternatives` must be > 0 and <=");
  expect_invalid(R"("max_new_tokens": 0)", "`max_new_tokens` must be strictly positive");
  expect_invalid(R"("stop": ["a", "b", "c", "d", "e"])",
                 "`stop` supports up to 4 stop sequences. Given: 5");
  expect_invalid(R"("stop": [""])", "empty stop sequence");
  expect_invalid(R"("truncate": 0)", "`truncate` must be strictly positive and at most 60");
  expect_invalid(R"("truncate": 61)", "`truncate`");
  expect_lorax_error(post("/generate", R"({"inputs": ""})"), 422, "validation",
                     "`inputs` cannot be empty");
}

// What is wrong in several ways is told in LoRAX's order.
TEST_F(GenerateTest, OrderOfChecks) {
  const std::vector<std::pair<std::string, std::string>> checks = {
      {R"("merged_adapters": {"ids": []})", "at least one adapter"},
      {R"("temperature": -1)", "`temperature`"},
      {R"("repetition_penalty": -1)", "`repetition_penalty`"},
      {R"("frequency_penalty": 3)", "`frequency_penalty`"},
      {R"("presence_penalty": 3)", "`presence_penalty`"},
      {R"("top_p": 2)", "`top_p`"},
      {R"("typical_p": 2)", "`typical_p`"},
      {R"("top_k": 0)", "`top_k`"},
      {R"("return_k_alternatives": 0)", "`return_k_alternatives`"},
      {R"("max_new_tokens": 0)", "`max_new_tokens`"},
      {R"("stop": ["a", "b", "c", "d", "e"])", "`stop`"},
      {R"("truncate": 0)", "`truncate`"}};
  for (size_t i = 0; i < checks.size(); ++i) {
    std::string parameters;
    for (size_t j = checks.size(); j-- > i;) {
      parameters += (parameters.empty() ? "" : ", ") + checks[j].first;
    }
    expect_invalid(parameters, checks[i].second);
  }
}

TEST_F(GenerateTest, WrongTypes) {
  expect_invalid(R"("temperature": "hot")", "`temperature` must be a number; given \"hot\"");
  expect_invalid(R"("top_k": 1.5)", "`top_k` must be an integer; given 1.5");
  expect_invalid(R"("top_k": 1e300)", "`top_k` is too large");
  expect_invalid(R"("max_new_tokens": 18446744073709551615)", "`max_new_tokens` is too large");
  expect_invalid(R"("seed": -1)", "`seed` must be an integer from 0");
  expect_invalid(R"("seed": 1e30)", "`seed` must be an integer from 0");
  expect_invalid(R"("do_sample": 1)", "`do_sample` must be true or false; given 1");
  expect_invalid(R"("stop": "x")", "`stop` must be a list of strings; given \"x\"");
  expect_invalid(R"("stop": [1])", "`stop` must be a list of strings; given 1");
  expect_invalid(R"("adapter_id": {"a": 1})", "`adapter_id` must be a string; given an object");
  expect_lorax_error(post("/generate", R"({"inputs": "a", "parameters": [1]})"), 422, "validation",
                     "`parameters` must be an object; given a list");
  expect_lorax_error(post("/generate", R"({"inputs": 5})"), 422, "validation",
                     "`inputs` must be a string; given 5");
  expect_lorax_error(post("/generate", "{}"), 422, "validation", "`inputs` is missing");
  expect_lorax_error(post("/", R"({"inputs": "a", "stream": 1})"), 422, "validation", "`stream`");
}

TEST_F(GenerateTest, FieldsThatAreNotSupported) {
  expect_invalid(R"("response_format": {"type": "json_object"})",
                 "`response_format` is not supported by this server");
  expect_invalid(R"("response_format": {"type": "text", "schema": {}})", "`response_format`");
  expect_invalid(R"("response_format": 1)", "`response_format`");
  request_of(R"("response_format": {"type": "text"})");
}

TEST_F(GenerateTest, WhatStreamsCannotDo) {
  expect_lorax_error(post("/generate_stream", R"({"inputs": "a", "parameters":
                                                 {"best_of": 2, "do_sample": true}})"),
                     422, "validation", "`best_of` != 1 is not supported when streaming tokens");
  expect_lorax_error(
      post("/",
           R"({"inputs": "a", "stream": true, "parameters": {"decoder_input_details": true}})"),
      422, "validation", "`decoder_input_details` == true is not supported when streaming");
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
