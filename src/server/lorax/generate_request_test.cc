// What the fields of LoRAX's routes come to, and which of them are refused.
#include <limits>

#include "adapters/merge/merge_recipe.h"
#include "server/testing/api_fixture.h"

namespace lorax {
namespace {

class GenerateParametersTest : public ApiTest {
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

TEST_F(GenerateParametersTest, SamplingRule) {
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

TEST_F(GenerateParametersTest, ParametersReachTheEngine) {
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

TEST_F(GenerateParametersTest, NullIsTheSameAsNothing) {
  const GenerationRequest request = request_of(
      R"("adapter_id": null, "adapter_source": null, "merged_adapters": null, "api_token": null,
         "best_of": null, "temperature": null, "seed": null, "stop": null, "details": null,
         "response_format": null, "truncate": null, "top_k": null)");
  EXPECT_EQ(request.adapter, "");
  EXPECT_EQ(post("/generate", R"({"inputs": "a", "parameters": null})").status, 200);
}

TEST_F(GenerateParametersTest, Truncation) {
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

TEST_F(GenerateParametersTest, APromptMayBringItsOwnBos) {
  EXPECT_EQ(request_of("", "<bos>abc").prompt, request_of("", "abc").prompt);
}

TEST_F(GenerateParametersTest, ChatTemplate) {
  const std::vector<int32_t> prompt = request_of(R"("apply_chat_template": true)", "hi").prompt;
  EXPECT_EQ(tiny_tokenizer().decode(prompt, false), "<bos>user:hi\nassistant:");
}

TEST_F(GenerateParametersTest, LengthLimits) {
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

TEST_F(GenerateParametersTest, Adapters) {
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

TEST_F(GenerateParametersTest, MergedAdapters) {
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

TEST_F(GenerateParametersTest, WrongAdapters) {
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

TEST_F(GenerateParametersTest, ParametersOutOfRange) {
  expect_invalid(R"("best_of": 2)", "you must use sampling when `best_of` is > 1");
  expect_invalid(R"("best_of": 3, "do_sample": true)", "`best_of` must be > 0 and <= 2. Given: 3");
  expect_invalid(R"("stop": [")" + std::string(4097, 'a') + "\"]", "more than 4096 bytes");
  expect_invalid(R"("best_of": 0)", "`best_of` must be > 0 and <= 2. Given: 0");
  expect_invalid(R"("best_of": 2, "do_sample": true, "seed": 1)", "`seed` must not be set");
  expect_invalid(R"("temperature": -0.1)", "`temperature` must be >= 0. Given: -0.1");
  expect_invalid(R"("temperature": 1e39)", "too large");
  expect_invalid(R"("repetition_penalty": 0)", "`repetition_penalty` must be strictly positive");
  expect_invalid(R"("frequency_penalty": 2.5)", "`frequency_penalty` must be >= -2 and <= 2");
  expect_invalid(R"("presence_penalty": -2.5)", "`presence_penalty` must be >= -2 and <= 2");
  expect_invalid(R"("top_p": -0.1)", "`top_p` must be >= 0 and <= 1");
  expect_invalid(R"("top_p": 1.1)", "`top_p` must be >= 0 and <= 1. Given: 1.1");
  expect_invalid(R"("typical_p": 1.1)", "`typical_p` must be > 0 and <= 1");
  expect_invalid(R"("min_p": 1.5)", "`min_p`");
  expect_invalid(R"("top_k": -2)", "`top_k` must be >= -1");
  expect_invalid(R"("return_k_alternatives": -1)", "`return_k_alternatives` must be >= 0");
  expect_invalid(R"("return_k_alternatives": 1000)", "`return_k_alternatives` must be >= 0 and <=");
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
TEST_F(GenerateParametersTest, OrderOfChecks) {
  const std::vector<std::pair<std::string, std::string>> checks = {
      {R"("merged_adapters": {"ids": []})", "at least one adapter"},
      {R"("temperature": -1)", "`temperature`"},
      {R"("repetition_penalty": -1)", "`repetition_penalty`"},
      {R"("frequency_penalty": 3)", "`frequency_penalty`"},
      {R"("presence_penalty": 3)", "`presence_penalty`"},
      {R"("top_p": 2)", "`top_p`"},
      {R"("typical_p": 2)", "`typical_p`"},
      {R"("top_k": -2)", "`top_k`"},
      {R"("return_k_alternatives": -1)", "`return_k_alternatives`"},
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

TEST_F(GenerateParametersTest, WrongTypes) {
  expect_invalid(R"("temperature": "hot")", "`temperature` must be a number; given \"hot\"");
  expect_invalid(R"("top_k": 1.5)", "`top_k` must be an integer; given 1.5");
  expect_invalid(R"("top_k": 1e300)", "`top_k` is too large");
  expect_invalid(R"("max_new_tokens": 18446744073709551615)", "`max_new_tokens` is too large");
  expect_invalid(R"("seed": 1e30)", "`seed` must be an integer from -9223372036854775808");
  expect_invalid(R"("do_sample": 1)", "`do_sample` must be true or false; given 1");
  expect_invalid(R"("stop": 1)", "`stop` must be a string or a list of strings; given 1");
  expect_invalid(R"("stop": [1])", "`stop` must be a list of strings; given 1");
  expect_invalid(R"("adapter_id": {"a": 1})", "`adapter_id` must be a string; given an object");
  expect_lorax_error(post("/generate", R"({"inputs": "a", "parameters": [1]})"), 422, "validation",
                     "`parameters` must be an object; given a list");
  expect_lorax_error(post("/generate", R"({"inputs": 5})"), 422, "validation",
                     "`inputs` must be a string; given 5");
  expect_lorax_error(post("/generate", "{}"), 422, "validation", "`inputs` is missing");
  expect_lorax_error(post("/", R"({"inputs": "a", "stream": 1})"), 422, "validation", "`stream`");
}

TEST_F(GenerateParametersTest, FieldsThatAreNotSupported) {
  expect_invalid(R"("response_format": {"type": "json_object"})",
                 "`parameters.response_format` is not supported");
  expect_invalid(R"("response_format": {"type": "text", "schema": {}})", "response_format`");
  expect_invalid(R"("response_format": 1)", "response_format`");
  request_of(R"("response_format": {"type": "text", "schema": null})");
  request_of(R"("response_format": {"type": "text"})");
}

TEST_F(GenerateParametersTest, WhatStreamsCannotDo) {
  expect_lorax_error(post("/generate_stream", R"({"inputs": "a", "parameters":
                                                 {"best_of": 2, "do_sample": true}})"),
                     422, "validation", "`best_of` != 1 is not supported when streaming tokens");
  expect_lorax_error(
      post("/",
           R"({"inputs": "a", "stream": true, "parameters": {"decoder_input_details": true}})"),
      422, "validation", "`decoder_input_details` == true is not supported when streaming");
}

}  // namespace
}  // namespace lorax
