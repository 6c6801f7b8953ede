// vLLM's fields of the OpenAI routes, and what of OpenAI's own stands at the edge of its range.
#include <limits>

#include "server/testing/api_fixture.h"

namespace lorax {
namespace {

class OpenAiExtensionsTest : public ApiTest {
 protected:
  HttpResponse complete(const std::string& fields) {
    return post("/v1/completions", R"({"model": "", )" + fields + "}");
  }
  HttpResponse chat(const std::string& fields) {
    return post("/v1/chat/completions", R"({"model": "", )" + fields + "}");
  }
  GenerationRequest request_of(const std::string& fields) {
    const HttpResponse response = complete(R"("prompt": "the lord is my shepherd", )" + fields);
    EXPECT_EQ(response.status, 200) << response.body;
    return service_.requests().back();
  }
  std::string prompt_of_chat(const std::string& fields) {
    const HttpResponse response = chat(fields);
    EXPECT_EQ(response.status, 200) << response.body;
    return tiny_tokenizer().decode(service_.requests().back().prompt, false);
  }
  void expect_refused(const HttpResponse& response, std::string_view param, std::string_view part) {
    expect_openai_error(response, 400, param, part);
  }
  static int32_t id_of(const std::string& piece) { return *tiny_tokenizer().find_piece(piece); }
};

TEST_F(OpenAiExtensionsTest, StopAndMinimum) {
  const GenerationRequest request =
      request_of(R"("stop_token_ids": [9, 7, 9], "min_tokens": 3, "max_tokens": 5)");
  EXPECT_EQ(request.stop_token_ids, (std::vector<int32_t>{7, 9}));
  EXPECT_EQ(request.sampling.min_tokens, 3);
  EXPECT_EQ(request.sampling.ending_ids, (std::vector<int32_t>{1, 7, 9}));
  EXPECT_EQ(request_of(R"("stop_token_ids": [7], "ignore_eos": true)").sampling.ending_ids,
            std::vector<int32_t>{7});
  EXPECT_EQ(request_of(R"("stop_token_ids": [], "min_tokens": 0)").stop_token_ids.size(), 0u);
  expect_refused(complete(R"("prompt": "a", "stop_token_ids": [-1])"), "stop_token_ids", "-1");
  expect_refused(complete(R"("prompt": "a", "stop_token_ids": [1.5])"), "stop_token_ids",
                 "integer");
  expect_refused(complete(R"("prompt": "a", "min_tokens": 6, "max_tokens": 5)"), "min_tokens",
                 "at most `max_tokens`");
  expect_refused(complete(R"("prompt": "a", "min_tokens": -1)"), "min_tokens", ">= 0");
}

TEST_F(OpenAiExtensionsTest, WhatMayBeChosen) {
  EXPECT_EQ(request_of(R"("allowed_token_ids": [5, 4])").sampling.allowed_ids,
            (std::vector<int32_t>{4, 5}));
  EXPECT_TRUE(request_of(R"("allowed_token_ids": [])").sampling.allowed_ids.empty());
  expect_refused(complete(R"("prompt": "a", "allowed_token_ids": [100000])"), "allowed_token_ids",
                 "100000");
  // As the first word of a text and behind a space.
  const auto words = request_of(R"("bad_words": ["lord", " lord", "\n"])").sampling.bad_words;
  const std::vector<int32_t> bare = tiny_tokenizer().encode("lord");
  const std::vector<int32_t> behind = tiny_tokenizer().encode(" lord");
  ASSERT_NE(bare, behind);
  EXPECT_EQ(std::ranges::count(words, bare), 2);
  EXPECT_EQ(std::ranges::count(words, behind), 2);
  EXPECT_EQ(std::ranges::count(words, tiny_tokenizer().encode("\n")), 1);
  expect_refused(complete(R"("prompt": "a", "bad_words": [""])"), "bad_words", "empty");
  expect_refused(complete(R"("prompt": "a", "bad_words": "a")"), "bad_words", "list");
}

TEST_F(OpenAiExtensionsTest, TruncationKeepsTheLastTokens) {
  const std::vector<int32_t> whole = request_of(R"("truncate_prompt_tokens": null)").prompt;
  ASSERT_GT(whole.size(), 3u);
  std::vector<int32_t> kept(whole.end() - 2, whole.end());
  kept.insert(kept.begin(), whole.front());  // bos is one of them
  EXPECT_EQ(request_of(R"("truncate_prompt_tokens": 3)").prompt, kept);
  EXPECT_EQ(request_of(R"("truncate_prompt_tokens": -1)").prompt, whole);
  EXPECT_EQ(complete(R"("prompt": [5, 6, 7, 8], "truncate_prompt_tokens": 2)").status, 200);
  EXPECT_EQ(service_.requests().back().prompt, (std::vector<int32_t>{7, 8}));
  const std::string chat_prompt = prompt_of_chat(
      R"("messages": [{"role": "user", "content": "hi"}], "truncate_prompt_tokens": 2)");
  EXPECT_EQ(service_.requests().back().prompt.size(), 2u);
  EXPECT_TRUE(chat_prompt.ends_with(":")) << chat_prompt;
  expect_refused(complete(R"("prompt": "a", "truncate_prompt_tokens": 0)"),
                 "truncate_prompt_tokens", "-1 or from 1");
  expect_refused(complete(R"("prompt": "a", "truncate_prompt_tokens": 61)"),
                 "truncate_prompt_tokens", "60");
  const HttpResponse echo =
      complete(R"("prompt": "the lord is my shepherd", "truncate_prompt_tokens": 3, "echo": true)");
  const std::string text =
      std::string(parse_json(echo.body, "answer").at("choices").at(0).at("text").as_string());
  EXPECT_EQ(text, tiny_tokenizer().decode(std::span(kept).subspan(1), false) + " a b");
}

TEST_F(OpenAiExtensionsTest, PromptLogprobs) {
  Script script = scripted_text({" a"});
  const auto token = [](int32_t id, const std::string& text, float logprob) {
    TokenInfo info;
    info.id = id;
    info.text = text;
    info.logprob = logprob;
    return info;
  };
  script.prompt = {token(2, "<bos>", std::nanf("")), token(10, "x", -2.5f)};
  script.prompt[1].alternatives = {{11, "y", -0.5f}, {12, "z", -1.25f}};
  service_.set_script(script);
  const HttpResponse response = complete(R"("prompt": "a", "prompt_logprobs": 2)");
  const std::string want =
      R"("prompt_logprobs":[null,{"11":{"logprob":-0.5,"rank":1,"decoded_token":"y"},)"
      R"("12":{"logprob":-1.25,"rank":2,"decoded_token":"z"},)"
      R"("10":{"logprob":-2.5,"rank":null,"decoded_token":"x"}}])";
  EXPECT_NE(response.body.find(want), std::string::npos) << response.body;
  EXPECT_EQ(service_.requests().back().prompt_alternatives, 2);
  EXPECT_TRUE(service_.requests().back().prompt_logprobs);
  const HttpResponse of_chat =
      chat(R"("messages": [{"role": "user", "content": "hi"}], "prompt_logprobs": 0)");
  EXPECT_NE(
      of_chat.body.find(
          R"("prompt_logprobs":[null,{"10":{"logprob":-2.5,"rank":null,"decoded_token":"x"}}])"),
      std::string::npos)
      << of_chat.body;
  EXPECT_EQ(complete(R"("prompt": "a")").body.find("prompt_logprobs"), std::string::npos);
  expect_refused(complete(R"("prompt": "a", "prompt_logprobs": 1, "stream": true)"),
                 "prompt_logprobs", "stream");
  expect_refused(complete(R"("prompt": "a", "prompt_logprobs": -1)"), "prompt_logprobs", ">= 0");
}

TEST_F(OpenAiExtensionsTest, TemplateOptions) {
  const std::string user = R"("messages": [{"role": "user", "content": "hi"}])";
  EXPECT_EQ(prompt_of_chat(user + R"(, "add_generation_prompt": false)"), "<bos>user:hi\n");
  EXPECT_EQ(prompt_of_chat(user + R"(, "add_generation_prompt": true)"),
            "<bos>user:hi\nassistant:");
  const std::string goes_on = R"("messages": [{"role": "user", "content": "hi"},
      {"role": "assistant", "content": "Well, "}], "continue_final_message": true)";
  EXPECT_EQ(prompt_of_chat(goes_on), "<bos>user:hi\nassistant:Well, ");
  EXPECT_EQ(prompt_of_chat(goes_on + R"(, "add_generation_prompt": false)"),
            "<bos>user:hi\nassistant:Well, ");
  expect_refused(chat(goes_on + R"(, "add_generation_prompt": true)"), "continue_final_message",
                 "cannot both");
  EXPECT_EQ(prompt_of_chat(user + R"(, "chat_template_kwargs": {"mood": "glad "})"),
            "<bos>glad user:hi\nassistant:");
  EXPECT_EQ(prompt_of_chat(user + R"(, "chat_template_kwargs": {"add_generation_prompt": false})"),
            "<bos>user:hi\n");
  EXPECT_EQ(header(chat(user + R"(, "chat_template_kwargs": {"enable_thinking": true})"),
                   "x-ignored-fields"),
            "chat_template_kwargs.enable_thinking");
  expect_refused(chat(user + R"(, "chat_template_kwargs": {"messages": [1]})"),
                 "chat_template_kwargs", "`messages`");
  expect_refused(chat(user + R"(, "chat_template_kwargs": [])"), "chat_template_kwargs", "object");
}

TEST_F(OpenAiExtensionsTest, ClosedRangesAlikeOnAllRoutes) {
  EXPECT_EQ(request_of(R"("top_p": 0)").sampling.temperature, 0.0f);
  EXPECT_EQ(request_of(R"("top_p": 1, "typical_p": 1, "top_k": -1)").sampling.temperature, 1.0f);
  EXPECT_EQ(request_of(R"("seed": -1)").sampling.seed, UINT64_MAX);
  EXPECT_EQ(request_of(R"("seed": 18446744073709551615)").sampling.seed, UINT64_MAX);
  const auto generate = [&](const std::string& parameters) {
    const HttpResponse response =
        post("/generate", R"({"inputs": "a", "parameters": {)" + parameters + "}}");
    EXPECT_EQ(response.status, 200) << response.body;
    return service_.requests().back();
  };
  EXPECT_EQ(generate(R"("top_p": 0, "do_sample": true)").sampling.temperature, 0.0f);
  EXPECT_EQ(generate(R"("top_p": 1, "typical_p": 1, "top_k": -1)").sampling.temperature, 0.0f);
  EXPECT_EQ(generate(R"("top_k": 0, "return_k_alternatives": 0)").sampling.top_k, 0);
  EXPECT_EQ(generate(R"("seed": -1)").sampling.seed, UINT64_MAX);
  EXPECT_EQ(generate(R"("stop": "x")").stop, std::vector<std::string>{"x"});
}

}  // namespace
}  // namespace lorax
