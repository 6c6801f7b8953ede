// What a body asks for is done or refused by name: tables of fields and values.
#include "server/api/foreign_fields.h"

#include "server/testing/api_fixture.h"

namespace lorax {
namespace {

struct Case {
  const char* name;
  const char* asks;     // refused
  const char* nothing;  // taken; "" if only null and its like are
};

constexpr Case kCases[] = {
    {"audio", R"({"voice": "alloy"})", "{}"},
    {"best_of_all", "", ""},  // unknown
    {"cache_prompt", "", "false"},
    {"chat_template", R"("{{ 1 }}")", R"("")"},
    {"detokenize", "false", "true"},
    {"documents", R"([{"text": "a"}])", "[]"},
    {"dry_multiplier", "0.8", "0"},
    {"ebnf", R"("root ::= \"a\"")", R"("")"},
    {"grammar", R"({"type": "json", "value": {}})", "{}"},
    {"guided_choice", R"(["a"])", "[]"},
    {"guided_json", R"({"type": "object"})", "null"},
    {"include_stop_str_in_output", "true", "false"},
    {"json_schema", R"({"type": "object"})", ""},
    {"length_penalty", "2.0", "1"},
    {"logits_processors", R"(["a"])", "[]"},
    {"lora_path", R"("a")", R"("")"},
    {"lora_request", R"({"lora_name": "a"})", R"({"lora_name": null})"},
    {"max_new_tokens", "3", ""},
    {"mirostat", "2", "0"},
    {"modalities", R"(["text", "audio"])", R"(["text"])"},
    {"n_predict", "3", "-1"},
    {"no_repeat_ngram_size", "3", "0"},
    {"num_beams", "4", "1.0"},
    {"prediction", R"({"type": "content"})", ""},
    {"priority", "1", "0"},
    {"reasoning_effort", R"("high")", R"("none")"},
    {"regex", R"("a+")", R"("")"},
    {"repeat_penalty", "1.3", "1.0"},
    {"response_format", R"({"type": "json_object"})", R"({"type": "text"})"},
    {"return_hidden_states", "true", "false"},
    {"sampling_params", R"({"temperature": 0})", "{}"},
    {"service_tier", R"("priority")", R"("auto")"},
    {"skip_special_tokens", "false", "true"},
    {"stop_regex", R"("a+")", ""},
    {"store", "true", "false"},
    {"structured_outputs", R"({"regex": "a"})", R"({"regex": null})"},
    {"suffix", R"("x")", R"("")"},
    {"top_n_tokens", "2", "0"},
    {"truncation_side", R"("right")", R"("left")"},
    {"use_beam_search", "true", "false"},
    {"verbosity", R"("low")", R"("medium")"},
    {"watermark", "true", "false"},
    {"web_search_options", R"({"user_location": 1})", "{}"},
    {"xtc_probability", "0.5", "0"},
};

class ForeignFieldsTest : public ApiTest {
 protected:
  HttpResponse send_field(const std::string& path, const std::string& name,
                          const std::string& value) {
    const std::string field = fmt::format(R"("{}": {})", name, value);
    if (path == "/generate") {
      return post(path, R"({"inputs": "a", "parameters": {)" + field + "}}");
    }
    const std::string prompt = path == "/v1/completions"
                                   ? R"("prompt": "a")"
                                   : R"("messages": [{"role": "user", "content": "hi"}])";
    return post(path, R"({"model": "", )" + prompt + ", " + field + "}");
  }
};

TEST_F(ForeignFieldsTest, AreDoneOrRefusedByName) {
  for (const std::string path : {"/generate", "/v1/completions", "/v1/chat/completions"}) {
    const bool is_generate = path == "/generate";
    for (const Case& each : kCases) {
      if (is_generate &&
          std::string_view("watermark max_new_tokens").find(each.name) != std::string_view::npos) {
        continue;  // its own
      }
      SCOPED_TRACE(path + " " + each.name);
      if (*each.asks != '\0') {
        const HttpResponse refused = send_field(path, each.name, each.asks);
        EXPECT_EQ(refused.status, is_generate ? 422 : 400) << refused.body;
        EXPECT_NE(refused.body.find(fmt::format("{}`", each.name)), std::string::npos)
            << refused.body;
      }
      for (const std::string nothing : {each.nothing, "null"}) {
        if (nothing.empty()) continue;
        const HttpResponse taken = send_field(path, each.name, nothing);
        EXPECT_EQ(taken.status, 200) << taken.body;
      }
    }
  }
}

TEST_F(ForeignFieldsTest, WhatNobodyKnowsIsReported) {
  for (const std::string path : {"/generate", "/v1/completions", "/v1/chat/completions"}) {
    const std::string prefix = path == "/generate" ? "parameters." : "";
    EXPECT_EQ(header(send_field(path, "my_field", "[1]"), "x-ignored-fields"), prefix + "my_field");
    EXPECT_EQ(header(send_field(path, "user", R"("me")"), "x-ignored-fields"), prefix + "user");
    EXPECT_EQ(header(send_field(path, "user", "null"), "x-ignored-fields"), std::nullopt);
    EXPECT_EQ(header(send_field(path, "num_beams", "1"), "x-ignored-fields"), std::nullopt);
    EXPECT_EQ(header(send_field(path, R"(a\r\nb: c)", "1"), "x-ignored-fields"),
              prefix + "a??b??c");
    EXPECT_LT(header(send_field(path, std::string(3000, 'a'), "1"), "x-ignored-fields")->size(),
              1100u);
  }
  const HttpResponse stream =
      post("/generate_stream", R"({"inputs": "a", "mine": 1, "stream": true})");
  EXPECT_EQ(stream.status, 200);
  EXPECT_EQ(header(stream, "x-ignored-fields"), "mine");
}

TEST_F(ForeignFieldsTest, NestedObjectsAreLookedInto) {
  const auto chat = [&](const std::string& fields) {
    return post(
        "/v1/chat/completions",
        R"({"model": "", "messages": [{"role": "user", "content": "hi"}], )" + fields + "}");
  };
  const std::string stream = R"("stream": true, "stream_options": )";
  EXPECT_EQ(chat(stream + R"({"include_usage": true, "continuous_usage_stats": true})").status,
            400);
  EXPECT_EQ(chat(stream + R"({"include_usage": true, "include_obfuscation": false})").status, 200);
  EXPECT_EQ(header(chat(stream + R"({"other": 1})"), "x-ignored-fields"), "stream_options.other");
  expect_lorax_error(post("/generate", R"({"inputs": "a", "temperature": 0.5})"), 422, "validation",
                     "put it into `parameters`");
  expect_lorax_error(post("/generate", R"({"inputs": "a", "stream": true})"), 422, "validation",
                     "/generate_stream");
  expect_lorax_error(post("/generate", R"({"inputs": "a", "parameters": {"max_tokens": 3}})"), 422,
                     "validation", "use `max_new_tokens`");
  EXPECT_EQ(post("/generate", R"({"inputs": "a", "stream": false})").status, 200);
  EXPECT_EQ(header(post("/generate", R"({"inputs": "a", "parameters": {"merged_adapters":
      {"ids": ["caps", "pirate"], "own": 1}}})"),
                   "x-ignored-fields"),
            "merged_adapters.own");
}

TEST_F(ForeignFieldsTest, ToolsAreTakenIfNoneMayBeCalled) {
  const std::string tool = R"([{"type": "function", "function": {"name": "f"}}])";
  const auto chat = [&](const std::string& fields) {
    return post(
        "/v1/chat/completions",
        R"({"model": "", "messages": [{"role": "user", "content": "hi"}], )" + fields + "}");
  };
  EXPECT_EQ(chat(R"("tool_choice": "none", "tools": )" + tool).status, 200);
  EXPECT_EQ(chat(R"("function_call": "none", "functions": [{"name": "f"}])").status, 200);
  expect_openai_error(chat(R"("tools": )" + tool), 400, "tools", "`tool_choice`");
  expect_openai_error(chat(R"("tool_choice": "auto", "tools": )" + tool), 400, "tools", "tools");
  expect_openai_error(chat(R"("functions": [{"name": "f"}])"), 400, "functions", "`function_call`");
  expect_openai_error(chat(R"("tool_choice": "required")"), 400, "tool_choice", "`tool_choice`");
  EXPECT_EQ(chat(R"("tools": [], "tool_choice": "auto")").status, 200);
  EXPECT_EQ(chat(R"("logprobs": false, "top_logprobs": 0)").status, 200);
}

// PlainChat reads "weather" of a message, and nothing else.
TEST_F(ForeignFieldsTest, FieldsOfMessagesThatTheTemplateDoesNotRead) {
  const auto chat = [&](const std::string& fields) {
    return post("/v1/chat/completions", R"({"model": "", "messages": [{"role": "user",
      "content": "hi", )" + fields + "}]}");
  };
  expect_openai_error(chat(R"("tool_calls": [{"id": "1"}])"), 400, "messages",
                      "`messages[0].tool_calls`");
  expect_openai_error(chat(R"("images": ["x"])"), 400, "messages", "images");
  EXPECT_EQ(chat(R"("tool_calls": [], "function_call": null)").status, 200);
  EXPECT_EQ(header(chat(R"("mine": 1)"), "x-ignored-fields"), "messages.mine");
  EXPECT_EQ(header(chat(R"("weather": "sun")"), "x-ignored-fields"), std::nullopt);
}

}  // namespace
}  // namespace lorax
