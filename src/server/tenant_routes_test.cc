// What different API keys see of the routes, and how much they may ask for.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include <boost/algorithm/string/replace.hpp>

#include "server/api/adapter_request.h"
#include "server/testing/api_fixture.h"

namespace lorax {
namespace {

class TenantRoutesTest : public ApiTest {
 protected:
  static std::shared_ptr<Tenant> tenant(std::string name,
                                        std::optional<std::vector<std::string>> adapters = {}) {
    auto tenant = std::make_shared<Tenant>();
    tenant->name = std::move(name);
    tenant->adapters = std::move(adapters);
    return tenant;
  }
  std::vector<std::string> models() {
    std::vector<std::string> names;
    const boost::json::value body = parse_json(get("/v1/models").body, "models");
    for (const boost::json::value& model : body.at("data").as_array()) {
      names.emplace_back(model.at("id").as_string());
    }
    return names;
  }
  static std::string generate_body(const std::string& adapter) {
    return R"({"inputs": "a", "parameters": {"adapter_id": ")" + adapter + "\"}}";
  }
  static std::string completion_body(const std::string& model) {
    return R"({"prompt": "a", "model": ")" + model + "\"}";
  }
};

TEST_F(TenantRoutesTest, AdaptersOfOthersDoNotExist) {
  tenant_ = tenant("alice", std::vector<std::string>{"pirate"});
  EXPECT_EQ(models(), (std::vector<std::string>{"models/tiny-gemma2", "pirate"}));
  EXPECT_EQ(get("/v1/models/pirate").status, 200);
  EXPECT_EQ(post("/generate", generate_body("pirate")).status, 200);
  EXPECT_EQ(post("/v1/completions", completion_body("pirate")).status, 200);
  EXPECT_EQ(post("/v1/completions", completion_body("")).status, 200);
  // Word for word the answers for one that is not there.
  const auto expect_same = [&](const std::string& method, const std::string& path,
                               const auto& body_of) {
    HttpResponse hidden = call(method, path + body_of("caps").first, body_of("caps").second);
    HttpResponse none = call(method, path + body_of("nope").first, body_of("nope").second);
    EXPECT_EQ(hidden.status, none.status) << path;
    EXPECT_NE(hidden.status, 200) << path;
    boost::algorithm::replace_all(hidden.body, "caps", "nope");
    EXPECT_EQ(hidden.body, none.body);
  };
  using Sent = std::pair<std::string, std::string>;
  expect_same("GET", "/v1/models/", [](const std::string& name) { return Sent(name, ""); });
  for (const char* path : {"/generate", "/generate_stream", "/", "/invocations"}) {
    expect_same("POST", path,
                [](const std::string& name) { return Sent("", generate_body(name)); });
  }
  for (const char* path : {"/v1/completions", "/v1/chat/completions"}) {
    expect_same("POST", path, [](const std::string& name) {
      return Sent("", R"({"prompt": "a", "messages": [{"role": "user", "content": "a"}],
                          "model": ")" +
                          name + "\"}");
    });
  }
  expect_same("POST", "/generate", [](const std::string& name) {
    return Sent("", R"({"inputs": "a", "parameters": {"merged_adapters":
                    {"ids": ["pirate", ")" +
                        name + R"("], "weights": [1, 1]}}})");
  });
  tenant_ = nullptr;
  EXPECT_EQ(post("/generate", generate_body("caps")).status, 200);
  EXPECT_EQ(models().size(), 5u);
}

TEST_F(TenantRoutesTest, ADefaultAdapterThatIsNotSeenIsNotUsed) {
  AdapterDirectory adapters("models/tiny-gemma2/adapters", "caps");
  const auto tenant = this->tenant("alice", std::vector<std::string>{"pirate"});
  EXPECT_EQ(VisibleAdapters(adapters, tenant.get()).default_name(), "");
  EXPECT_EQ(VisibleAdapters(adapters, nullptr).default_name(), "caps");
}

TEST_F(TenantRoutesTest, NamesAtRunTimeNeedAKeyThatSeesAll) {
  ApiSettings settings = test_settings();
  settings.allow_runtime_adapters = true;
  configure(settings);
  const std::string body = R"({"lora_name": "speaker", "lora_path": "pirate"})";
  tenant_ = tenant("alice", std::vector<std::string>{"pirate", "speaker"});
  EXPECT_EQ(post("/v1/load_lora_adapter", body).status, 403);
  tenant_ = tenant("root");
  EXPECT_EQ(post("/v1/load_lora_adapter", body).status, 200);
  EXPECT_EQ(models().size(), 6u);
}

TEST_F(TenantRoutesTest, FlowsAndScopesOfTheCache) {
  const auto scopes = [&](const std::string& more) {
    service_.forget_requests();
    EXPECT_EQ(post("/v1/completions", R"({"model": "", "prompt": "a")" + more + "}").status, 200);
    EXPECT_EQ(
        post("/generate", R"({"inputs": "a", "parameters": {"details": true)" + more + "}}").status,
        200);
    const auto requests = service_.requests();
    EXPECT_EQ(requests.at(0).cache_scope, requests.at(1).cache_scope);
    EXPECT_EQ(requests.at(0).flow, tenant_ == nullptr ? "" : tenant_->name);
    return requests.at(0).cache_scope;
  };
  const std::string salt = R"(, "cache_salt": "s")";
  std::set<std::string> all = {scopes(""), scopes(salt)};
  EXPECT_TRUE(all.contains("") && all.contains("s"));
  for (const char* name : {"alice", "bob", "bobs"}) {
    tenant_ = tenant(name);
    all.insert(scopes(""));
    all.insert(scopes(salt));
    all.insert(scopes(R"(, "cache_salt": "5:alice")"));
  }
  EXPECT_EQ(all.size(), 2u + 3 * 3);
  ApiSettings settings = test_settings();
  settings.shares_prefixes = true;
  configure(settings);
  EXPECT_EQ(scopes(""), "");
  EXPECT_EQ(scopes(salt), "s");
  expect_openai_error(post("/v1/completions", R"({"model": "", "prompt": "a", "cache_salt": ""})"),
                      400, "cache_salt", "must not be empty");
  expect_openai_error(
      post("/v1/chat/completions", R"({"model": "", "messages": [{"role": "user", "content": "a"}],
                                       "cache_salt": 5})"),
      400, "cache_salt", "string");
}

TEST_F(TenantRoutesTest, RequestsAtOnce) {
  auto limited = tenant("alice");
  limited->limits.max_concurrent_requests = 2;
  tenant_ = limited;
  const Writer first = send("POST", "/generate_stream", generate_body(""));
  const Writer second = send("POST", "/v1/completions", completion_body(""));
  const std::pair<const char*, std::string> further[] = {{"/generate", generate_body("")},
                                                         {"/v1/completions", completion_body("")}};
  for (const auto& [path, body] : further) {
    const Writer third = send("POST", path, body);
    ASSERT_TRUE(third->ended());
    EXPECT_EQ(third->response().status, 429);
    EXPECT_EQ(header(third->response(), "Retry-After"), "1");
  }
  tenant_ = tenant("bob");
  EXPECT_EQ(post("/generate", generate_body("")).status, 200) << "runs the others, too";
  tenant_ = limited;
  EXPECT_EQ(limited->usage->running(), 0);
  EXPECT_EQ(post("/v1/completions", R"({"model": "", "prompt": "a", "n": 2})").status, 200);
  expect_openai_error(post("/v1/completions", R"({"model": "", "prompt": "a", "n": 3})"), 400, "n",
                      "2 at once");
  // However they end, places come back.
  service_.set_script(scripted_failure(FailureKind::kRequest, "no"));
  post("/v1/completions", R"({"model": "", "prompt": "a", "n": 2})");
  Script refused;
  refused.admission = GenerationService::Admission::kOverloaded;
  service_.set_script(refused);
  post("/v1/completions", R"({"model": "", "prompt": "a", "n": 2})");
  service_.set_script(scripted_text({"x"}));
  const Writer gone = send("POST", "/generate_stream", generate_body(""));
  gone->disconnect();
  service_.run();
  EXPECT_EQ(limited->usage->running(), 0);
}

TEST_F(TenantRoutesTest, TokensAMinute) {
  auto limited = tenant("alice");
  limited->limits.max_tokens_per_minute = 4;
  tenant_ = limited;
  // Two of the prompt, bos included, and two of the text.
  EXPECT_EQ(post("/generate", generate_body("")).status, 200);
  const HttpResponse refused = post("/generate", generate_body(""));
  expect_lorax_error(refused, 429, "overloaded", "tokens a minute");
  const int wait = std::stoi(header(refused, "Retry-After").value_or("0"));
  EXPECT_GE(wait, 1);
  EXPECT_LE(wait, 15);
  EXPECT_EQ(observer_.of("failure overloaded"), 1);
}

TEST_F(TenantRoutesTest, ErrorsHaveNoPathsOfThisMachine) {
  const std::string root = std::filesystem::canonical("models/tiny-gemma2/adapters").string();
  service_.set_script(scripted_failure(FailureKind::kAdapter, root + "/pirate/x.json: is bad"));
  for (const char* path : {"/generate", "/generate_stream"}) {
    const Writer writer = send("POST", path, generate_body("pirate"));
    service_.run();
    const std::string body = writer->response().body;
    EXPECT_EQ(body.find(root), std::string::npos) << body;
    EXPECT_NE(body.find("pirate/x.json: is bad"), std::string::npos) << body;
  }
  EXPECT_EQ(get("/v1/models").body.find(root), std::string::npos);
}

TEST_F(TenantRoutesTest, NamesOfTheModel) {
  ApiSettings settings = test_settings();
  settings.model_id = "first";
  settings.model_names = {"second"};
  configure(settings);
  EXPECT_EQ(models()[0] + models()[1], "firstsecond");
  for (const char* name : {"first", "second", "", "__base_model__"}) {
    const HttpResponse response = post("/v1/completions", completion_body(name));
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(parse_json(response.body, "").at("model").as_string(), "first") << name;
    EXPECT_EQ(header(response, "x-model-id"), "first");
  }
  EXPECT_EQ(get("/v1/models/second").status, 200);
  EXPECT_EQ(post("/v1/completions", completion_body("third")).status, 404);
}

TEST_F(TenantRoutesTest, StatusBehindTheKey) {
  const auto open = [&](std::string_view path) {
    const auto route = std::ranges::find(routes_, path, &ApiRoute::path);
    return route != routes_.end() && route->is_open;
  };
  ApiSettings settings = test_settings();
  settings.metrics = [](const HttpRequest&) { return HttpResponse(); };
  configure(settings);
  for (const char* path : {"/metrics", "/docs", "/api-doc/openapi.json"}) EXPECT_TRUE(open(path));
  EXPECT_FALSE(open("/info"));
  settings.protects_status = true;
  configure(settings);
  for (const char* path : {"/metrics", "/docs", "/api-doc/openapi.json"}) EXPECT_FALSE(open(path));
  EXPECT_TRUE(open("/health"));
}

}  // namespace
}  // namespace lorax
