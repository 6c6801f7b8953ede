#include "server/docs_routes.h"

#include <set>

#include <boost/algorithm/string/case_conv.hpp>
#include <boost/json/serialize.hpp>

#include "server/api_operations.h"
#include "server/testing/api_fixture.h"

namespace lorax {
namespace {

namespace json = boost::json;

class DocsTest : public ApiTest {
 protected:
  DocsTest() {
    ApiSettings settings = test_settings();
    settings.allow_runtime_adapters = true;
    settings.metrics = [](const HttpRequest&) { return HttpResponse(); };
    configure(settings);
    document_ = parse_json(get("/api-doc/openapi.json").body, "document");
  }

  std::vector<ApiOperation> operations() {
    ApiSettings settings = test_settings();
    settings.metrics = [](const HttpRequest&) { return HttpResponse(); };
    return api_operations(
        {service_, tiny_tokenizer(), adapters_, chat_, observer_, workers_, settings});
  }

  const json::object& schema(const std::string& name) const {
    return document_.at("components").at("schemas").at(name).as_object();
  }

  json::value document_;
};

void collect_references(const json::value& value, std::set<std::string>& references) {
  if (value.is_object()) {
    for (const auto& [key, member] : value.as_object()) {
      if (key == "$ref") references.emplace(member.as_string());
      collect_references(member, references);
    }
  } else if (value.is_array()) {
    for (const json::value& member : value.as_array()) collect_references(member, references);
  }
}

TEST_F(DocsTest, EveryRouteIsDocumentedAndNoOther) {
  std::set<std::string> routes;
  for (const ApiRoute& route : routes_) {
    std::string path = route.path;
    if (path.ends_with("/*")) path.replace(path.size() - 1, 1, "{model}");
    routes.insert(route.method + " " + path);
  }
  std::set<std::string> documented;
  for (const auto& [path, methods] : document_.at("paths").as_object()) {
    for (const auto& [method, unused] : methods.as_object()) {
      documented.insert(boost::algorithm::to_upper_copy(std::string(method)) + " " +
                        std::string(path));
    }
  }
  EXPECT_EQ(routes, documented);
}

TEST_F(DocsTest, ReferencesLeadSomewhere) {
  std::set<std::string> references;
  collect_references(document_, references);
  EXPECT_GT(references.size(), 15u);
  constexpr std::string_view kPrefix = "#/components/schemas/";
  for (const std::string& reference : references) {
    ASSERT_TRUE(reference.starts_with(kPrefix)) << reference;
    EXPECT_TRUE(document_.at("components")
                    .at("schemas")
                    .as_object()
                    .contains(reference.substr(kPrefix.size())))
        << reference;
  }
}

TEST_F(DocsTest, SchemasHaveWhatIsChecked) {
  const json::object& parameters =
      schema("GenerateRequest").at("properties").at("parameters").at("properties").as_object();
  EXPECT_EQ(parameters.at("best_of"),
            parse_json(R"({"type": ["integer", "null"],
      "format": "int64", "default": null, "description": ")" +
                           std::string(parameters.at("best_of").at("description").as_string()) +
                           R"(", "examples": [1],
      "exclusiveMinimum": 0, "maximum": 2})",
                       "golden"));
  EXPECT_EQ(parameters.at("truncate").at("maximum"), 60);
  EXPECT_EQ(parameters.at("do_sample").at("default"), false);
  EXPECT_EQ(parameters.at("stop").at("anyOf").at(1).at("maxItems"), 4);
  EXPECT_TRUE(schema("ChatRequest").contains("not"));
  EXPECT_EQ(schema("GenerateRequest").at("required"), (json::array{"inputs"}));
  EXPECT_FALSE(schema("GenerateRequest").at("properties").as_object().contains("stream"));
  EXPECT_TRUE(schema("CompatGenerateRequest").at("properties").as_object().contains("stream"));
  EXPECT_EQ(schema("ChatRequest").at("required"), (json::array{"messages", "model"}));
}

// What the documentation offers to run is a valid request.
TEST_F(DocsTest, ExamplesWork) {
  for (const ApiOperation& operation : operations()) {
    if (operation.request.empty()) continue;
    SCOPED_TRACE(operation.path);
    EXPECT_EQ(post(operation.path, operation.example).status, 200);
  }
  // And so is each field's own example.
  const json::object& parameters =
      schema("GenerateRequest").at("properties").at("parameters").at("properties").as_object();
  for (const auto& [name, field] : parameters) {
    const json::value* examples = field.as_object().if_contains("examples");
    if (examples == nullptr) continue;
    std::string body = R"({"inputs": "a", "parameters": {")" + std::string(name) +
                       "\": " + json::serialize(examples->at(0)) + "}}";
    if (name == "truncate" || name == "max_new_tokens") continue;  // of a server with longer texts
    EXPECT_EQ(post("/generate", body).status, 200) << body;
  }
}

TEST_F(DocsTest, AnswersHaveTheDocumentedProperties) {
  service_.set_script(scripted_text({"a", "b"}));
  const auto expect_properties = [&](const std::string& body, const std::string& name) {
    const json::value answer = parse_json(body, "answer");
    const json::object& properties = schema(name).at("properties").as_object();
    for (const auto& [key, unused] : answer.as_object()) {
      EXPECT_TRUE(properties.contains(key)) << name << " " << key;
    }
    for (const json::value& key : schema(name).at("required").as_array()) {
      EXPECT_TRUE(answer.as_object().contains(key.as_string())) << name << " " << key;
    }
  };
  const std::string details =
      post("/generate",
           R"({"inputs": "a", "parameters": {"details": true, "best_of": 2, "top_k": 2}})")
          .body;
  expect_properties(details, "GenerateResponse");
  expect_properties(json::serialize(parse_json(details, "body").at("details")), "Details");
  expect_properties(
      json::serialize(parse_json(details, "body").at("details").at("best_of_sequences").at(0)),
      "BestOfSequence");
  expect_properties(json::serialize(parse_json(details, "body").at("details").at("tokens").at(0)),
                    "Token");
  expect_properties(post("/v1/completions", R"({"model": "", "prompt": "a"})").body,
                    "CompletionResponse");
  expect_properties(post("/v1/chat/completions",
                         R"({"model": "", "messages": [{"role": "user", "content": "a"}]})")
                        .body,
                    "ChatResponse");
  expect_properties(get("/v1/models").body, "ModelList");
  expect_properties(get("/v1/models/caps").body, "Model");
  expect_properties(get("/info").body, "Info");
  expect_properties(post("/generate", "{}").body, "LoraxError");
  expect_properties(post("/v1/completions", "{}").body, "OpenAiError");
}

TEST_F(DocsTest, ThePageHasALineForEachRoute) {
  const HttpResponse response = get("/docs");
  EXPECT_EQ(response.content_type, "text/html; charset=utf-8");
  for (const ApiOperation& operation : operations()) {
    EXPECT_NE(response.body.find("<code>" + operation.method + " " + operation.path + "</code>"),
              std::string::npos)
        << operation.path;
  }
  EXPECT_NE(response.body.find("curl http://127.0.0.1:3000/v1/models/models/tiny-gemma2"),
            std::string::npos);
}

TEST_F(DocsTest, ThePageNamesTheServerAsTheClientDoes) {
  const auto page = [&](const std::string& host) {
    auto writer = std::make_shared<RecordingWriter>();
    HttpRequest request;
    request.headers = {{"Host", host}};
    handler("GET", "/docs")(request, writer);
    return writer->response().body;
  };
  EXPECT_NE(page("gpu-1.example:8080").find("curl http://gpu-1.example:8080/health"),
            std::string::npos);
  const std::string hostile = page("x';rm -rf /;'<script>");
  EXPECT_EQ(hostile.find("rm -rf"), std::string::npos);
  EXPECT_NE(hostile.find("curl http://127.0.0.1:3000/health"), std::string::npos);
}

}  // namespace
}  // namespace lorax
