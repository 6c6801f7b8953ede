// Which models clients are told of, and adapters that they name at run time.
#include <filesystem>

#include "server/testing/api_fixture.h"

namespace lorax {
namespace {

class ModelsTest : public ApiTest {
 protected:
  void expect_refused(const HttpResponse& response, std::string_view param, std::string_view part) {
    expect_openai_error(response, 400, param, part);
  }
};

TEST_F(ModelsTest, BaseAndAdapters) {
  const boost::json::value models = parse_json(get("/v1/models").body, "body");
  EXPECT_EQ(models.at("object").as_string(), "list");
  ASSERT_EQ(models.at("data").as_array().size(), 5u);
  EXPECT_EQ(models.at("data").at(0),
            parse_json(R"({"id":"models/tiny-gemma2","object":"model","created":1700000000,
                           "owned_by":"lorax","root":"models/tiny-gemma2","parent":null,
                           "max_model_len":64})",
                       "golden"));
  const boost::json::value& caps = models.at("data").at(1);
  EXPECT_EQ(caps.at("id").as_string(), "caps");
  EXPECT_EQ(caps.at("root").as_string(), "caps");
  EXPECT_EQ(caps.at("parent").as_string(), "models/tiny-gemma2");
  EXPECT_EQ(parse_json(get("/v1/models/caps").body, "body"), caps);
  EXPECT_EQ(parse_json(get("/v1/models/models/tiny-gemma2").body, "body"), models.at("data").at(0));
  expect_openai_error(get("/v1/models/nobody"), 404, "model", "does not exist");
  expect_openai_error(get("/v1/models/a\nb"), 404, "model", "a\\x0ab");
}

TEST_F(ModelsTest, RuntimeAdapters) {
  expect_openai_error(
      post("/v1/load_lora_adapter", R"({"lora_name": "me", "lora_path": "pirate"})"), 403, "",
      "--allow-runtime-adapters");
  std::vector<std::string> told;
  ApiSettings settings = test_settings();
  settings.allow_runtime_adapters = true;
  settings.refresh_adapter = [&](const std::string& id) { told.push_back("refresh " + id); };
  settings.forget_adapter = [&](const std::string& id) { told.push_back("forget " + id); };
  configure(settings);
  const HttpResponse added =
      post("/v1/load_lora_adapter", R"({"lora_name": "me", "lora_path": "pirate"})");
  EXPECT_EQ(added.status, 200);
  EXPECT_EQ(added.body, "Success: LoRA adapter 'me' added successfully.");
  EXPECT_EQ(post("/v1/completions", R"({"model": "me", "prompt": "a"})").status, 200);
  const std::string id = adapters_.resolve("pirate");
  EXPECT_EQ(service_.requests()[0].adapter, id);
  EXPECT_EQ(parse_json(get("/v1/models/me").body, "body").at("root").as_string(), "pirate");
  expect_refused(post("/v1/load_lora_adapter", R"({"lora_name": "me", "lora_path": "caps"})"),
                 "lora_name", "has already been loaded");
  EXPECT_EQ(post("/v1/load_lora_adapter",
                 R"({"lora_name": "me", "lora_path": "caps", "load_inplace": true})")
                .status,
            200);
  expect_refused(post("/v1/load_lora_adapter", R"({"lora_name": "me"})"), "lora_path",
                 "Both 'lora_name' and 'lora_path' must be provided.");
  expect_openai_error(
      post("/v1/load_lora_adapter", R"({"lora_name": "x", "lora_path": "nothing"})"), 404, "model",
      "does not exist");
  expect_refused(post("/v1/load_lora_adapter", R"({"lora_name": "x", "lora_path": "/etc/passwd"})"),
                 "adapter_id", "does not lie below");
  expect_refused(
      post("/v1/load_lora_adapter", R"({"lora_name": "models/tiny-gemma2", "lora_path": "caps"})"),
      "lora_name", "base model");
  EXPECT_EQ(post("/v1/unload_lora_adapter", R"({"lora_name": "me"})").body,
            "Success: LoRA adapter 'me' removed successfully.");
  expect_openai_error(post("/v1/unload_lora_adapter", R"({"lora_name": "me"})"), 404, "lora_name",
                      "cannot be found");
  expect_refused(post("/v1/unload_lora_adapter", "{}"), "lora_name", "must be provided");
  expect_openai_error(post("/v1/completions", R"({"model": "me", "prompt": "a"})"), 404, "model",
                      "does not exist");
  EXPECT_EQ(told, (std::vector<std::string>{"refresh " + id, "refresh " + adapters_.resolve("caps"),
                                            "forget " + adapters_.resolve("caps")}));
}

}  // namespace
}  // namespace lorax
