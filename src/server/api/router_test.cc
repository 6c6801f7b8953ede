#include "server/api/router.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"

namespace lorax {
namespace {

// A file of keys, removed with this.
class TestKeyFile {
 public:
  TestKeyFile() : path_(std::filesystem::path(testing::TempDir()) / "router_test_keys.json") {}
  ~TestKeyFile() { std::filesystem::remove(path_); }
  const std::filesystem::path& path() const { return path_; }
  void write(std::string_view text) const { std::ofstream(path_) << text; }

 private:
  std::filesystem::path path_;
};

struct Recorded {
  std::optional<HttpResponse> response;
  int begun = 0;

  std::string header(std::string_view name) const {
    for (const auto& [key, value] : response->headers) {
      if (key == name) return value;
    }
    return {};
  }
};

class RecordingWriter final : public ResponseWriter {
 public:
  explicit RecordingWriter(Recorded& recorded) : recorded_(recorded) {}
  void respond(HttpResponse response) override { recorded_.response = std::move(response); }
  void begin(int status, std::vector<std::pair<std::string, std::string>> headers,
             std::string content_type) override {
    recorded_.response = HttpResponse{status, std::move(headers), std::move(content_type), ""};
    ++recorded_.begun;
  }
  void write(std::string bytes) override { recorded_.response->body += bytes; }
  void finish() override {}
  void on_disconnect(std::function<void()>) override {}
  void note(const std::function<void(RequestNote&)>&) override {}

 private:
  Recorded& recorded_;
};

using Headers = std::vector<std::pair<std::string, std::string>>;

class RouterTest : public testing::Test {
 protected:
  void make(RouterOptions options = {}) {
    router.emplace(std::move(options));
    const auto says = [](std::string name) {
      return [name](HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
        HttpResponse response;
        response.body = name + " " + request.path;
        writer->respond(std::move(response));
      };
    };
    router->add("GET", "/health", says("health"), RouteAccess::kOpen);
    router->add("POST", "/generate", says("generate"));
    router->add("GET", "/", says("root"), RouteAccess::kOpen);
    router->add("POST", "/", says("compat"));
    router->add("GET", "/v1/models", says("models"));
    router->add("GET", "/v1/models/*", says("model"));
    router->add("DELETE", "/v1/models/deep/*", says("deep"));
    router->add("GET", "/stream", [](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
      writer->begin(200, {{"x-a", "1"}}, "text/event-stream");
      writer->write("data");
      writer->finish();
    });
  }

  Recorded call(std::string method, std::string path, Headers headers = {}) {
    Recorded recorded;
    HttpRequest request;
    request.method = std::move(method);
    request.path = std::move(path);
    request.headers = std::move(headers);
    (*router)(std::move(request), std::make_shared<RecordingWriter>(recorded));
    EXPECT_TRUE(recorded.response);
    return recorded;
  }
  int status(std::string method, std::string path, Headers headers = {}) {
    return call(std::move(method), std::move(path), std::move(headers)).response->status;
  }

  const Headers json = {{"Content-Type", "application/json"}};
  std::optional<Router> router;
};

TEST_F(RouterTest, FindsRoutes) {
  make();
  EXPECT_EQ(call("GET", "/health").response->body, "health /health");
  EXPECT_EQ(call("HEAD", "/health").response->body, "health /health");
  EXPECT_EQ(call("GET", "/").response->body, "root /");
  EXPECT_EQ(call("POST", "/", json).response->body, "compat /");
  EXPECT_EQ(call("GET", "/v1/models").response->body, "models /v1/models");
  EXPECT_EQ(call("GET", "/v1/models/a/b").response->body, "model /v1/models/a/b");
  EXPECT_EQ(call("DELETE", "/v1/models/deep/x").response->body, "deep /v1/models/deep/x");
  for (const char* path : {"/Health", "/health/", "/v1/models/", "//", "/generate2", "", "*"}) {
    EXPECT_EQ(status("GET", path), 404) << path;
  }
}

TEST_F(RouterTest, UnknownRoutesAndMethods) {
  make();
  EXPECT_EQ(call("GET", "/nope").response->body,
            "{\"error\":\"there is no route /nope\",\"error_type\":\"not_found\"}");
  EXPECT_NE(call("GET", "/v1/nope").response->body.find("\"param\":null"), std::string::npos);
  const Recorded wrong = call("PUT", "/");
  EXPECT_EQ(wrong.response->status, 405);
  EXPECT_EQ(wrong.header("allow"), "GET, HEAD, POST, OPTIONS");
  EXPECT_EQ(status("HEAD", "/generate"), 405);
  EXPECT_EQ(call("OPTIONS", "/generate").header("allow"), "POST, OPTIONS");
  EXPECT_EQ(status("OPTIONS", "*"), 204);
}

TEST_F(RouterTest, PostBodiesAreJson) {
  make();
  const auto with = [&](std::string type) {
    return status("POST", "/generate", {{"content-type", std::move(type)}});
  };
  EXPECT_EQ(with("application/json"), 200);
  EXPECT_EQ(with("Application/JSON ; charset=utf-8"), 200);
  EXPECT_EQ(with("application/vnd.api+json"), 200);
  EXPECT_EQ(with("text/json"), 415);
  EXPECT_EQ(with("application/jsonx"), 415);
  EXPECT_EQ(with(""), 415);
  EXPECT_EQ(status("POST", "/generate"), 415);
  EXPECT_EQ(status("POST", "/generate", {json[0], {"content-encoding", "gzip"}}), 415);
  EXPECT_EQ(status("POST", "/generate", {json[0], {"content-encoding", "identity"}}), 200);
}

TEST_F(RouterTest, ApiKeys) {
  RouterOptions options;
  const auto keys = std::make_shared<ApiKeys>("first");
  TestKeyFile file;
  file.write(R"({"keys": [{"name": "two", "key": "second-key", "adapters": ["x"]}]})");
  keys->load(file.path());
  options.keys = keys;
  make(options);
  const auto with = [&](std::string value) {
    return status("POST", "/generate", {json[0], {"Authorization", std::move(value)}});
  };
  EXPECT_EQ(with("Bearer first"), 200);
  EXPECT_EQ(with("bearer  second-key "), 200);
  for (const char* bad : {"", "first", "Bearer", "Bearer ", "Bearer firs", "Bearer first2",
                          "Bearer FIRST", "Basic first", "Bearer first second-key"}) {
    EXPECT_EQ(with(bad), 401) << bad;
  }
  const Recorded missing = call("GET", "/v1/models");
  EXPECT_EQ(missing.response->status, 401);
  EXPECT_EQ(missing.header("www-authenticate"), "Bearer");
  EXPECT_NE(missing.response->body.find("invalid_api_key"), std::string::npos);
  EXPECT_EQ(status("GET", "/health"), 200) << "open";
  EXPECT_EQ(status("POST", "/generate"), 401) << "before the content type";
}

// The handler learns who asks, on open routes too.
TEST_F(RouterTest, TenantsOfRequests) {
  RouterOptions options;
  const auto keys = std::make_shared<ApiKeys>("first");
  options.keys = keys;
  make(options);
  std::shared_ptr<const Tenant> seen;
  const auto see = [&](HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
    seen = request.tenant;
    writer->respond({});
  };
  router->add("GET", "/open", see, RouteAccess::kOpen);
  router->add("GET", "/closed", see);
  for (const char* path : {"/open", "/closed"}) {
    call("GET", path, {{"Authorization", "Bearer first"}});
    EXPECT_EQ(seen, keys->find("first")) << path;
  }
  for (const char* key : {"Bearer other", ""}) {
    EXPECT_EQ(status("GET", "/open", {{"Authorization", key}}), 200);
    ASSERT_NE(seen, nullptr);
    EXPECT_FALSE(seen->sees_adapter("x"));
    EXPECT_EQ(status("GET", "/closed", {{"Authorization", key}}), 401);
  }
  make();
  router->add("GET", "/open", see, RouteAccess::kOpen);
  call("GET", "/open", {{"Authorization", "Bearer first"}});
  EXPECT_EQ(seen, nullptr) << "no keys";
}

TEST_F(RouterTest, HostsByName) {
  RouterOptions options;
  options.allowed_hosts = {"API.example", "*.inner.example", "10.0.0.1:8000", "[::1]"};
  make(options);
  const auto with = [&](const char* host) { return status("GET", "/health", {{"Host", host}}); };
  for (const char* good : {"api.example", "Api.Example:3000", "a.inner.example",
                           "a.b.inner.example", "10.0.0.1:8000", "[::1]", "[::1]:3000"}) {
    EXPECT_EQ(with(good), 200) << good;
  }
  for (const char* bad : {"evil.example", "api.example.evil", "xapi.example", "inner.example",
                          "evilinner.example", "10.0.0.1", "10.0.0.1:80", "", "::1",
                          "api.example:"
                          "80:80"}) {
    EXPECT_EQ(with(bad), 403) << bad;
  }
  EXPECT_EQ(status("GET", "/health"), 403) << "no host";
  EXPECT_EQ(status("OPTIONS", "/health", {{"Host", "evil.example"}}), 403);
  for (const char* bad : {"", "a b", "http://a"}) {
    options.allowed_hosts = {bad};
    EXPECT_THROW(Router{options}, Error) << bad;
  }
}

TEST_F(RouterTest, CorsForAnyOrigin) {
  make();
  EXPECT_EQ(call("GET", "/health").header("access-control-allow-origin"), "");
  const Headers from = {{"Origin", "https://page"}};
  EXPECT_EQ(call("GET", "/health", from).header("access-control-allow-origin"), "*");
  EXPECT_EQ(call("GET", "/nope", from).header("access-control-allow-origin"), "*");
  const Recorded stream = call("GET", "/stream", from);
  EXPECT_EQ(stream.header("access-control-allow-origin"), "*");
  EXPECT_EQ(stream.header("x-a"), "1");
  EXPECT_EQ(stream.response->body, "data");
  const Recorded preflight =
      call("OPTIONS", "/generate", {from[0], {"Access-Control-Request-Method", "POST"}});
  EXPECT_EQ(preflight.response->status, 204);
  EXPECT_EQ(preflight.header("access-control-allow-origin"), "*");
  EXPECT_EQ(preflight.header("access-control-allow-methods"), "GET, POST");
}

TEST_F(RouterTest, PreflightsAreAllowedTheHeadersTheyAskFor) {
  const auto preflight = [&](const char* origin, const char* asked) {
    return call("OPTIONS", "/generate",
                {{"Origin", origin},
                 {"Access-Control-Request-Method", "POST"},
                 {"Access-Control-Request-Headers", asked}});
  };
  const char* asked = "authorization,content-type, x-stainless-os";
  make();
  const Recorded any = preflight("https://a", asked);
  EXPECT_EQ(any.header("access-control-allow-headers"), asked);
  EXPECT_EQ(any.header("vary"), "access-control-request-headers");
  EXPECT_EQ(preflight("https://a", "x: y").header("access-control-allow-headers"), "");
  RouterOptions options;
  options.cors.allow_origins = {"https://a"};
  make(options);
  EXPECT_EQ(preflight("https://a", asked).header("access-control-allow-headers"), asked);
  const Recorded other = preflight("https://b", asked);
  EXPECT_EQ(other.header("access-control-allow-headers"), "");
  EXPECT_EQ(other.header("access-control-allow-methods"), "");
  options.cors.allow_headers = {"x-a", "x-b"};
  make(options);
  EXPECT_EQ(preflight("https://a", asked).header("access-control-allow-headers"), "x-a, x-b");
}

TEST_F(RouterTest, CorsForSomeOrigins) {
  RouterOptions options;
  options.cors.allow_origins = {"https://a", "https://b"};
  options.cors.allow_credentials = true;
  options.cors.expose_headers = {"x-model-id"};
  make(options);
  const Recorded good = call("GET", "/health", {{"origin", "https://b"}});
  EXPECT_EQ(good.header("access-control-allow-origin"), "https://b");
  EXPECT_EQ(good.header("access-control-allow-credentials"), "true");
  EXPECT_EQ(good.header("access-control-expose-headers"), "x-model-id");
  EXPECT_EQ(good.header("vary"), "origin");
  const Recorded bad = call("GET", "/health", {{"origin", "https://c"}});
  EXPECT_EQ(bad.response->status, 200);
  EXPECT_EQ(bad.header("access-control-allow-origin"), "");
  EXPECT_EQ(bad.header("vary"), "origin");
  options.cors.allow_origins = {"*"};
  EXPECT_THROW(Router{options}, Error);
  options.cors = {};
  options.cors.allow_origins = {"a\r\nb"};
  EXPECT_THROW(Router{options}, Error);
}

}  // namespace
}  // namespace lorax
