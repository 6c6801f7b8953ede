#include <cmath>
#include <limits>

#include "server/openai/openai_response.h"
#include "server/testing/api_fixture.h"

namespace lorax {
namespace {

// Ids and times made equal, so that bodies can be compared.
std::string masked(std::string body) {
  for (const char* key : {"\"id\":\"cmpl-", "\"id\":\"chatcmpl-"}) {
    for (size_t at = 0; (at = body.find(key, at)) != std::string::npos;) {
      at += std::string_view(key).size();
      body.erase(at, 32);
    }
  }
  constexpr std::string_view kCreated = "\"created\":";
  for (size_t at = 0; (at = body.find(kCreated, at)) != std::string::npos;) {
    at += kCreated.size();
    body.erase(at, body.find(',', at) - at);
    body.insert(at, 1, '0');
  }
  return body;
}

class OpenAiTest : public ApiTest {
 protected:
  HttpResponse complete(const std::string& fields) {
    return post("/v1/completions", R"({"model": "", )" + fields + "}");
  }
  HttpResponse chat(const std::string& fields) {
    return post(
        "/v1/chat/completions",
        R"({"model": "", "messages": [{"role": "user", "content": "hi"}], )" + fields + "}");
  }
  void expect_refused(const HttpResponse& response, std::string_view param, std::string_view part) {
    expect_openai_error(response, 400, param, part);
  }
  size_t prompt_length(size_t number = 0) { return service_.requests()[number].prompt.size(); }
};

TEST_F(OpenAiTest, CompletionGolden) {
  service_.set_script(scripted_text({" Hello", " world"}));
  const HttpResponse response = complete(R"("prompt": "abc", "max_tokens": 5)");
  EXPECT_EQ(response.status, 200);
  const size_t length = prompt_length();
  EXPECT_EQ(masked(response.body),
            fmt::format(R"({{"id":"cmpl-","object":"text_completion","created":0,)"
                        R"("model":"models/tiny-gemma2","system_fingerprint":"0.1.0-native",)"
                        R"("choices":[{{"index":0,"text":" Hello world","logprobs":null,)"
                        R"("finish_reason":"length"}}],"usage":{{"prompt_tokens":{},)"
                        R"("completion_tokens":2,"total_tokens":{},)"
                        R"("prompt_tokens_details":{{"cached_tokens":0}}}}}})",
                        length, length + 2));
  EXPECT_EQ(header(response, "x-model-id"), "models/tiny-gemma2");
  EXPECT_EQ(header(response, "x-generated-tokens"), "2");
  EXPECT_EQ(service_.requests()[0].max_new_tokens, 5);
  EXPECT_EQ(service_.requests()[0].sampling.temperature, 1.0f);
}

TEST_F(OpenAiTest, IdsAndTimesAreReal) {
  const auto now = std::chrono::system_clock::now();
  const boost::json::value first = parse_json(complete(R"("prompt": "a")").body, "body");
  const boost::json::value second = parse_json(complete(R"("prompt": "a")").body, "body");
  EXPECT_NE(first.at("id"), second.at("id"));
  EXPECT_EQ(first.at("id").as_string().size(), 37u);
  const std::chrono::sys_seconds created{
      std::chrono::seconds(first.at("created").to_number<int64_t>())};
  EXPECT_LT(std::chrono::abs(created - now), std::chrono::seconds(60));
}

TEST_F(OpenAiTest, ChatGolden) {
  Script script = scripted_text({"Ahoy", "!"});
  script.tokens.push_back(scripted_eos());
  script.end.reason = FinishReason::kEosToken;
  service_.set_script(script);
  const HttpResponse response = chat(R"("temperature": 0)");
  const size_t length = prompt_length();
  EXPECT_EQ(masked(response.body),
            fmt::format(R"({{"id":"chatcmpl-","object":"chat.completion","created":0,)"
                        R"("model":"models/tiny-gemma2","system_fingerprint":"0.1.0-native",)"
                        R"("choices":[{{"index":0,"message":{{"role":"assistant",)"
                        R"("content":"Ahoy!","refusal":null}},"logprobs":null,)"
                        R"("finish_reason":"stop"}}],"usage":{{"prompt_tokens":{},)"
                        R"("completion_tokens":3,"total_tokens":{},)"
                        R"("prompt_tokens_details":{{"cached_tokens":0}}}}}})",
                        length, length + 3));
  EXPECT_EQ(tiny_tokenizer().decode(service_.requests()[0].prompt, false),
            "<bos>user:hi\nassistant:");
  EXPECT_EQ(service_.requests()[0].sampling.temperature, 0.0f);
}

TEST_F(OpenAiTest, ChatStreamGolden) {
  Script script = scripted_text({"Ah", "oy"}, FinishReason::kStopSequence);
  script.tokens[1].delta.clear();
  script.end.delta = "o";
  script.end.stop_sequence = "y";
  script.end.cached_prompt_tokens = 1;
  service_.set_script(script);
  const HttpResponse response =
      chat(R"("stream": true, "stream_options": {"include_usage": true}, "stop": "y")");
  EXPECT_EQ(response.content_type, "text/event-stream");
  const std::string begin =
      R"(data: {"id":"chatcmpl-","object":"chat.completion.chunk","created":0,)"
      R"("model":"models/tiny-gemma2","system_fingerprint":"0.1.0-native","choices":[)";
  const size_t length = prompt_length();
  EXPECT_EQ(
      masked(response.body),
      begin +
          R"({"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,)"
          R"("finish_reason":null}],"usage":null})"
          "\n\n" +
          begin +
          R"({"index":0,"delta":{"content":"Ah"},"logprobs":null,"finish_reason":null}],)"
          R"("usage":null})"
          "\n\n" +
          begin +
          R"({"index":0,"delta":{"content":"o"},"logprobs":null,"finish_reason":null}],)"
          R"("usage":null})"
          "\n\n" +
          begin +
          R"({"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null})"
          "\n\n" +
          begin +
          fmt::format(R"(],"usage":{{"prompt_tokens":{},"completion_tokens":2,)"
                      R"("total_tokens":{},"prompt_tokens_details":{{"cached_tokens":1}}}}}})",
                      length, length + 2) +
          "\n\ndata: [DONE]\n\n");
}

TEST_F(OpenAiTest, CompletionStreamGolden) {
  service_.set_script(scripted_text({"a", "b"}));
  const HttpResponse response = complete(R"("prompt": "abc", "stream": true, "echo": true)");
  const std::string begin =
      R"(data: {"id":"cmpl-","object":"text_completion","created":0,)"
      R"("model":"models/tiny-gemma2","system_fingerprint":"0.1.0-native","choices":[)";
  EXPECT_EQ(masked(response.body),
            begin + R"({"index":0,"text":"abc","logprobs":null,"finish_reason":null}]})" + "\n\n" +
                begin + R"({"index":0,"text":"a","logprobs":null,"finish_reason":null}]})" +
                "\n\n" + begin +
                R"({"index":0,"text":"b","logprobs":null,"finish_reason":null}]})" + "\n\n" +
                begin + R"({"index":0,"text":"","logprobs":null,"finish_reason":"length"}]})" +
                "\n\ndata: [DONE]\n\n");
}

TEST_F(OpenAiTest, StopStringsAreCutOff) {
  Script script = scripted_text({" a", " b"}, FinishReason::kStopSequence);
  script.tokens[1].delta.clear();
  script.end.delta = " ";
  script.end.stop_sequence = "b";
  service_.set_script(script);
  for (const char* stop : {R"("b")", R"(["b", "c"])"}) {
    const boost::json::value body =
        parse_json(complete(fmt::format(R"("prompt": "x", "stop": {})", stop)).body, "body");
    EXPECT_EQ(body.at("choices").at(0).at("text").as_string(), " a ");
    EXPECT_EQ(body.at("choices").at(0).at("finish_reason").as_string(), "stop");
  }
  EXPECT_EQ(service_.requests()[0].stop, std::vector<std::string>{"b"});
  EXPECT_EQ(service_.requests()[1].stop, (std::vector<std::string>{"b", "c"}));
}

TEST_F(OpenAiTest, FormsOfPrompts) {
  const auto texts = [&](const std::string& prompt) {
    const HttpResponse response = complete("\"prompt\": " + prompt);
    EXPECT_EQ(response.status, 200) << response.body;
    return parse_json(response.body, "body").at("choices").as_array().size();
  };
  const std::vector<int32_t> encoded = [&] {
    texts(R"("abc")");
    return service_.requests()[0].prompt;
  }();
  EXPECT_EQ(encoded.front(), 2);
  EXPECT_EQ(texts(R"(["abc", "x"])"), 2u);
  EXPECT_EQ(service_.requests()[1].prompt, encoded);
  EXPECT_EQ(texts("[5, 6]"), 1u);
  EXPECT_EQ(service_.requests()[3].prompt, (std::vector<int32_t>{5, 6}));
  EXPECT_EQ(texts("[[5, 6], [7]]"), 2u);
  EXPECT_EQ(service_.requests()[5].prompt, std::vector<int32_t>{7});
}

TEST_F(OpenAiTest, PromptsThatAreNone) {
  for (const auto& [prompt, part] : std::vector<std::pair<std::string, std::string>>{
           {"5", "a string, a list of strings"},
           {"null", "`prompt` is missing"},
           {"[]", "empty list"},
           {"[[]]", "no token"},
           {R"(["a", 5])", "a string, a list of strings"},
           {R"([5, "a"])", "a string, a list of strings"},
           {R"([[5], "a"])", "a string, a list of strings"},
           {"[{}]", "a string, a list of strings"},
           {"[-1]", "token id -1"},
           {"[100000000]", "token id 100000000"},
           {"[1.5]", "must be an integer"}}) {
    SCOPED_TRACE(prompt);
    expect_refused(complete("\"prompt\": " + prompt), "prompt", part);
  }
  EXPECT_TRUE(service_.requests().empty());
}

TEST_F(OpenAiTest, SeveralChoices) {
  service_.set_writer([](const GenerationRequest&, size_t number) {
    return scripted_text({"text " + std::to_string(number)});
  });
  const boost::json::value body =
      parse_json(complete(R"("prompt": ["a", "b c d"], "n": 2, "seed": 5)").body, "body");
  const boost::json::array& choices = body.at("choices").as_array();
  ASSERT_EQ(choices.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(choices[i].at("index"), i);
    EXPECT_EQ(choices[i].at("text").as_string(), "text " + std::to_string(i));
  }
  const std::vector<GenerationRequest> requests = service_.requests();
  EXPECT_EQ(requests[0].sampling.seed, 5u);
  EXPECT_EQ(requests[1].sampling.seed, 6u);
  EXPECT_EQ(requests[0].prompt, requests[1].prompt);
  EXPECT_EQ(requests[2].sampling.seed, 5u);
  EXPECT_EQ(body.at("usage").at("prompt_tokens"),
            requests[0].prompt.size() + requests[2].prompt.size());
  EXPECT_EQ(body.at("usage").at("completion_tokens"), 4);
}

TEST_F(OpenAiTest, SeveralChoicesInAStream) {
  service_.set_script(scripted_text({"x"}));
  const std::string body = chat(R"("n": 2, "stream": true)").body;
  for (const char* part :
       {R"("index":0,"delta":{"role")", R"("index":1,"delta":{"role")",
        R"("index":0,"delta":{"content":"x"})", R"("index":1,"delta":{"content":"x"})",
        R"("index":0,"delta":{},"logprobs":null,"finish_reason":"length")",
        R"("index":1,"delta":{},"logprobs":null,"finish_reason":"length")"}) {
    EXPECT_NE(body.find(part), std::string::npos) << part << body;
  }
  EXPECT_EQ(body.find("[DONE]"), body.size() - 8);
}

TEST_F(OpenAiTest, BestOf) {
  service_.set_writer([](const GenerationRequest&, size_t number) {
    Script script;
    script.tokens = {scripted_token(9, std::to_string(number), number == 1 ? -3.0f : -2.0f),
                     scripted_token(9, "x", number == 2 ? -0.5f : -1.0f)};
    return script;
  });
  const boost::json::value body =
      parse_json(complete(R"("prompt": "a", "n": 2, "best_of": 3)").body, "body");
  ASSERT_EQ(body.at("choices").as_array().size(), 2u);
  EXPECT_EQ(body.at("choices").at(0).at("text").as_string(), "2x");
  EXPECT_EQ(body.at("choices").at(1).at("text").as_string(), "0x");
  EXPECT_EQ(body.at("usage").at("completion_tokens"), 6);
  expect_refused(complete(R"("prompt": "a", "n": 3, "best_of": 2)"), "best_of", "at least `n`");
  expect_refused(complete(R"("prompt": "a", "best_of": 2, "stream": true)"), "best_of",
                 "streaming");
}

TEST_F(OpenAiTest, CompletionLogprobs) {
  Script script;
  script.tokens = {scripted_token(268, " a"), scripted_token(278, " b")};
  script.tokens[0].token.alternatives = {{1, "q", -0.125f}, {2, "q", -4.0f}};
  script.tokens[1].token.alternatives = {{3, " b", -0.5f},
                                         {2, "z", -std::numeric_limits<float>::infinity()}};
  script.prompt = {{2, "<bos>", std::nanf(""), true, {}}, {50, "abc", -1.5f, false, {}}};
  service_.set_script(script);
  const auto choice = [&](const std::string& fields) {
    return boost::json::value(parse_json(complete(fields).body, "body").at("choices").at(0));
  };
  EXPECT_EQ(choice(R"("prompt": "abc", "logprobs": 2)").at("logprobs"),
            parse_json(R"({"text_offset":[0,2],"token_logprobs":[-0.5,-0.5],"tokens":[" a"," b"],
                           "top_logprobs":[{"q":-0.125," a":-0.5},{" b":-0.5,"z":-9999}]})",
                       "golden"));
  EXPECT_EQ(service_.requests()[0].alternatives, 2);
  EXPECT_FALSE(service_.requests()[0].prompt_logprobs);

  const boost::json::value echoed = choice(R"("prompt": "abc", "logprobs": 0, "echo": true)");
  EXPECT_EQ(echoed.at("text").as_string(), "abc a b");
  EXPECT_EQ(echoed.at("logprobs").at("token_logprobs"),
            (boost::json::array{nullptr, -1.5, -0.5, -0.5}));
  EXPECT_EQ(echoed.at("logprobs").at("text_offset"), (boost::json::array{0, 0, 3, 5}));
  EXPECT_TRUE(echoed.at("logprobs").at("top_logprobs").at(0).is_null());
  EXPECT_TRUE(service_.requests()[1].prompt_logprobs);

  const boost::json::value scored =
      choice(R"("prompt": "abc", "logprobs": 0, "echo": true, "max_tokens": 0)");
  EXPECT_EQ(scored.at("text").as_string(), "abc");
  EXPECT_EQ(scored.at("logprobs").at("tokens"), (boost::json::array{"<bos>", "abc"}));

  const std::string stream =
      complete(R"("prompt": "abc", "logprobs": 0, "echo": true, "stream": true)").body;
  EXPECT_NE(stream.find(R"("text":"abc","logprobs":{"text_offset":[0,0])"), std::string::npos)
      << stream;
  EXPECT_NE(stream.find(R"("text":" a","logprobs":{"text_offset":[3])"), std::string::npos)
      << stream;
}

TEST_F(OpenAiTest, ChatLogprobs) {
  Script script;
  script.tokens = {scripted_token(268, " a"), scripted_token(204, "\ufffd")};
  script.tokens[0].token.alternatives = {{178, "\ufffd", -0.125f}};
  service_.set_script(script);
  const boost::json::value body =
      parse_json(chat(R"("logprobs": true, "top_logprobs": 1)").body, "body");
  EXPECT_EQ(body.at("choices").at(0).at("logprobs"),
            parse_json(R"({"content":[{"token":" a","logprob":-0.5,"bytes":[32,97],
                           "top_logprobs":[{"token":"\ufffd","logprob":-0.125,"bytes":[169]}]},
                           {"token":"\ufffd","logprob":-0.5,"bytes":[195],"top_logprobs":[]}],
                           "refusal":null})",
                       "golden"));
  const std::string stream = chat(R"("logprobs": true, "stream": true)").body;
  EXPECT_NE(stream.find(R"("delta":{"content":" a"},"logprobs":{"content":[{"token":" a")"),
            std::string::npos)
      << stream;
}

// As LoRAX does it; OpenAI's completions would end after 16 tokens.
TEST_F(OpenAiTest, WithoutMaxTokensTheLimitsSayHowLongATextMayBe) {
  ASSERT_EQ(complete(R"("prompt": "a")").status, 200);
  ASSERT_EQ(complete(R"("prompt": "a", "max_tokens": null)").status, 200);
  ASSERT_EQ(chat(R"("n": 1)").status, 200);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(service_.requests()[i].max_new_tokens,
              service_.limits().max_total_tokens - static_cast<int64_t>(prompt_length(i)));
  }
}

TEST_F(OpenAiTest, SamplingReachesTheEngine) {
  ASSERT_EQ(complete(R"("prompt": "a", "temperature": 0.5, "top_p": 0.25, "top_k": -1,
                        "min_p": 0.125, "typical_p": 0.75, "repetition_penalty": 1.5,
                        "frequency_penalty": -1, "presence_penalty": 2, "seed": -1,
                        "logit_bias": {"7": -100, "0": 1.5}, "ignore_eos": true, "user": "x")")
                .status,
            200);
  const GenerationRequest request = service_.requests()[0];
  const SamplingParameters& sampling = request.sampling;
  EXPECT_EQ(sampling.temperature, 0.5f);
  EXPECT_EQ(sampling.top_p, 0.25f);
  EXPECT_EQ(sampling.top_k, 0);
  EXPECT_EQ(sampling.min_p, 0.125f);
  EXPECT_EQ(sampling.typical_p, 0.75f);
  EXPECT_EQ(sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(sampling.frequency_penalty, -1.0f);
  EXPECT_EQ(sampling.presence_penalty, 2.0f);
  EXPECT_EQ(sampling.seed, UINT64_MAX);
  EXPECT_EQ(sampling.logit_bias, (std::vector<std::pair<int32_t, float>>{{7, -100.f}, {0, 1.5f}}));
  EXPECT_TRUE(request.eos_token_ids.empty());
  complete(R"("prompt": "a", "ignore_eos_token": true)");
  EXPECT_TRUE(service_.requests()[1].eos_token_ids.empty());
  complete(R"("prompt": "a")");
  EXPECT_EQ(service_.requests()[2].eos_token_ids, std::vector<int32_t>{1});
  EXPECT_NE(service_.requests()[1].sampling.seed, service_.requests()[2].sampling.seed);
}

TEST_F(OpenAiTest, ModelNamesTheBaseOrAnAdapter) {
  const std::string root = std::filesystem::canonical("models/tiny-gemma2/adapters").string();
  const auto post_model = [&](const std::string& model, const std::string& rest = "") {
    return post("/v1/completions",
                fmt::format(R"({{"model": "{}", "prompt": "a"{}}})", model, rest));
  };
  const auto adapter_of = [&](const HttpResponse& response) {
    EXPECT_EQ(response.status, 200) << response.body;
    return service_.requests().back().adapter;
  };
  EXPECT_EQ(adapter_of(post_model("")), "");
  EXPECT_EQ(adapter_of(post_model("models/tiny-gemma2")), "");
  EXPECT_EQ(adapter_of(post_model("__base_model__")), "");
  EXPECT_EQ(adapter_of(post_model("pirate")), root + "/pirate");
  EXPECT_EQ(adapter_of(post_model("", R"(, "adapter_id": "caps")")), root + "/caps");
  EXPECT_EQ(adapter_of(post_model("caps", R"(, "adapter_id": "caps")")), root + "/caps");
  EXPECT_NE(adapter_of(post_model("", R"(, "merged_adapters": {"ids": ["caps", "pirate"]})")), "");
  const HttpResponse pirate = post_model("pirate");
  EXPECT_EQ(parse_json(pirate.body, "body").at("model").as_string(), "pirate");
  EXPECT_EQ(header(pirate, "x-adapter-id"), "pirate");
  expect_refused(post_model("pirate", R"(, "adapter_id": "caps")"), "adapter_id", "another");

  const HttpResponse unknown = post_model("gpt-4");
  expect_openai_error(unknown, 404, "model", "does not exist");
  EXPECT_EQ(parse_json(unknown.body, "body").at("error").at("code").as_string(), "model_not_found");
  expect_openai_error(post("/v1/completions", R"({"prompt": "a"})"), 400, "model",
                      "`model` is missing");
}

TEST_F(OpenAiTest, ChatMessages) {
  const auto prompt_of = [&](const std::string& messages, const std::string& model = "") {
    const HttpResponse response =
        post("/v1/chat/completions",
             fmt::format(R"({{"model": "{}", "messages": {}}})", model, messages));
    EXPECT_EQ(response.status, 200) << response.body;
    return tiny_tokenizer().decode(service_.requests().back().prompt, false);
  };
  EXPECT_EQ(prompt_of(R"([{"role": "developer", "content": "be"},
                          {"role": "user", "content": [{"type": "text", "text": "a"},
                                                       {"type": "text", "text": "b"}]},
                          {"role": "assistant", "content": null},
                          {"role": "user", "content": "", "name": "Ann"}])"),
            "<bos>system:be\nuser:ab\nassistant:\nuser:\nassistant:");
  // The adapter's template is asked for.
  EXPECT_EQ(prompt_of(R"([{"role": "user", "content": "x"}])", "pirate"),
            "<bos>+user:x\nassistant:");
}

TEST_F(OpenAiTest, ChatMessagesThatAreNone) {
  for (const auto& [messages, part] : std::vector<std::pair<std::string, std::string>>{
           {"\"hi\"", "a list of messages"},
           {"[]", "empty"},
           {"[5]", "`messages[0]` must be an object; given 5"},
           {R"([{"content": "x"}])", "has the role \"\""},
           {R"([{"role": "wizard\u001b", "content": "x"}])", "wizard\\x1b"},
           {R"([{"role": "user"}])", "has no `content`"},
           {R"([{"role": "user", "content": 5}])", "neither a string nor a list"},
           {R"([{"role": "user", "content": ["x"]}])", "no object"},
           {R"([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])",
            "type \"image_url\""},
           {R"([{"role": "user", "content": [{"type": "text"}]}])", "without a text"},
           {R"([{"role": "tool", "content": "x"}])", "this template takes no role tool"}}) {
    SCOPED_TRACE(messages);
    expect_refused(post("/v1/chat/completions", R"({"model": "", "messages": )" + messages + "}"),
                   "messages", part);
  }
  EXPECT_TRUE(service_.requests().empty());
}

TEST_F(OpenAiTest, FieldsOutOfRange) {
  const std::vector<std::array<std::string, 3>> cases = {
      {R"("temperature": -1)", "temperature", "`temperature` must be >= 0"},
      {R"("temperature": "x")", "temperature", "a number"},
      {R"("top_p": -0.1)", "top_p", "`top_p` must be >= 0 and <= 1"},
      {R"("top_k": -2)", "top_k", ">= -1"},
      {R"("min_p": 2)", "min_p", "<= 1"},
      {R"("typical_p": 0)", "typical_p", "> 0"},
      {R"("repetition_penalty": 0)", "repetition_penalty", "strictly positive"},
      {R"("frequency_penalty": 3)", "frequency_penalty", "<= 2"},
      {R"("presence_penalty": -3)", "presence_penalty", ">= -2"},
      {R"("n": 0)", "n", ">= 1"},
      {R"("n": 33)", "n", "at most 32"},
      {R"("n": 129)", "n", "<= 128"},
      {R"("stop": 5)", "stop", "a string or a list of strings"},
      {R"("stop": "")", "stop", "empty"},
      {R"("stop": ["1", "2", "3", "4", "5"])", "stop", "up to 4"},
      {R"("logit_bias": {"x": 1})", "logit_bias", "token ids"},
      {R"("logit_bias": {"5": 101})", "logit_bias", "<= 100"},
      {R"("logit_bias": {"99999999999": 1})", "logit_bias", "token ids"},
      {R"("logit_bias": [1])", "logit_bias", "an object"},
      {R"("stream": "yes")", "stream", "true or false"},
      {R"("stream_options": true)", "stream_options", "an object"},
      {R"("stream_options": {"include_usage": 1})", "include_usage", "true or false"},
      {R"("max_tokens": -1)", "max_tokens", ""},
      {R"("max_tokens": 100)", "max_tokens", "must be <= 64"},
      {R"("seed": 1.5)", "seed", "an integer"},
      {R"("response_format": {"type": "json_object"})", "response_format", "not supported"},
      {R"("guided_regex": "x")", "guided_regex", "not supported"},
      {R"("adapter_source": "s3")", "adapter_source", "not supported"}};
  for (const auto& [fields, param, part] : cases) {
    SCOPED_TRACE(fields);
    expect_refused(complete(R"("prompt": "a", )" + fields), param, part);
    expect_refused(chat(fields), param, part);
  }
  expect_refused(complete(R"("prompt": "a", "suffix": "x")"), "suffix", "not supported");
  expect_refused(complete(R"("prompt": "a", "logprobs": 21)"), "logprobs", "<= 20");
  expect_refused(complete(R"("prompt": "a", "max_tokens": 0)"), "max_tokens", "`echo`");
  expect_refused(chat(R"("top_logprobs": 2)"), "top_logprobs", "needs `logprobs`");
  expect_refused(chat(R"("logprobs": true, "top_logprobs": 21)"), "top_logprobs", "<= 20");
  expect_refused(chat(R"("tools": [{"type": "function"}])"), "tools", "not supported");
  expect_refused(chat(R"("tool_choice": "required")"), "tool_choice", "not supported");
  expect_refused(chat(R"("modalities": ["audio"])"), "modalities", "not supported");
  expect_refused(chat(R"("guideline": "x")"), "guideline", "not supported");
  EXPECT_TRUE(service_.requests().empty());
  EXPECT_EQ(chat(R"("tools": [], "tool_choice": "none", "modalities": ["text"],
                    "response_format": {"type": "text"}, "max_completion_tokens": 3,
                    "store": false, "metadata": {"a": "b"})")
                .status,
            200);
  EXPECT_EQ(service_.requests()[0].max_new_tokens, 3);
}

TEST_F(OpenAiTest, Failures) {
  Script overload;
  overload.admission = GenerationService::Admission::kOverloaded;
  service_.set_script(overload);
  const HttpResponse response = complete(R"("prompt": "a")");
  expect_openai_error(response, 429, "", "overloaded");
  EXPECT_EQ(header(response, "Retry-After"), "1");
  service_.set_script(scripted_failure(FailureKind::kAdapter, "x: bad"));
  expect_openai_error(complete(R"("prompt": "a")"), 424, "", "x: bad");
  service_.set_script(scripted_text({"a"}, FinishReason::kTimedOut));
  expect_openai_error(chat(R"("n": 1)"), 504, "", "timed out");
  expect_openai_error(post("/v1/completions", "{"), 400, "", "not valid JSON");
  expect_openai_error(post("/v1/chat/completions", "[]"), 400, "", "a JSON object");
}

TEST_F(OpenAiTest, ErrorsInsideAStream) {
  Script script = scripted_text({"a"});
  script.end = scripted_failure(FailureKind::kService, "device lost").end;
  service_.set_script(script);
  const std::string body = chat(R"("stream": true, "n": 2)").body;
  EXPECT_TRUE(
      body.ends_with("data: {\"error\":{\"message\":\"device lost\",\"type\":\"generation_error\","
                     "\"param\":null,\"code\":\"generation_failed\"}}\n\n"))
      << body;
  EXPECT_EQ(body.find("[DONE]"), std::string::npos);
}

}  // namespace
}  // namespace lorax
