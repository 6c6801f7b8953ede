#include "server/testing/api_fixture.h"

namespace lorax {
namespace {

using StatusTest = ApiTest;

TEST_F(StatusTest, Health) {
  for (const char* path : {"/", "/health", "/ping"}) {
    const HttpResponse response = get(path);
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.body, "");
  }
  service_.set_healthy(false);
  for (const char* path : {"/", "/health", "/ping"}) {
    expect_lorax_error(get(path), 503, "healthcheck", "unhealthy");
  }
}

TEST_F(StatusTest, HealthSaysWhatIsWrong) {
  ApiSettings settings = test_settings();
  std::string fault;
  bool draining = false;
  settings.fault = [&] { return fault; };
  settings.is_draining = [&] { return draining; };
  configure(settings);
  EXPECT_EQ(get("/health").status, 200);
  fault = "the engine has been at one step for 100 s";
  expect_lorax_error(get("/health"), 503, "healthcheck", "unhealthy");
  fault.clear();
  draining = true;
  expect_lorax_error(get("/health"), 503, "unavailable", "shutting down");
  EXPECT_EQ(get("/startup").status, 200);
}

TEST_F(StatusTest, StartupGeneratesNothing) {
  EXPECT_EQ(get("/startup").status, 200);
  EXPECT_TRUE(service_.requests().empty());
  EXPECT_EQ(observer_.of("request /startup"), 0);
  service_.set_healthy(false);
  expect_lorax_error(get("/startup"), 503, "healthcheck", "unhealthy");
}

TEST_F(StatusTest, InfoGolden) {
  ApiSettings settings = test_settings();
  settings.max_batch_total_tokens = 4096;
  configure(settings);
  EXPECT_EQ(get("/info").body,
            R"({"model_id":"models/tiny-gemma2","model_sha":null,"model_dtype":"torch.bfloat16",)"
            R"("model_device_type":"cpu","model_pipeline_tag":"text-generation",)"
            R"("max_concurrent_requests":32,"max_best_of":2,"max_stop_sequences":4,)"
            R"("max_input_length":60,"max_total_tokens":64,"waiting_served_ratio":0,)"
            R"("max_batch_total_tokens":4096,"max_waiting_tokens":0,"validation_workers":2,)"
            R"("eager_prefill":true,"version":"0.1.0","sha":null,"docker_label":null,)"
            R"("request_logger_url":null})");
}

TEST_F(StatusTest, MetricsComeFromTheSettings) {
  EXPECT_THROW(get("/metrics"), Error);
  ApiSettings settings = test_settings();
  settings.metrics = [](const HttpRequest& request) {
    HttpResponse response;
    response.content_type = "text/plain";
    response.body = "of " + request.path;
    return response;
  };
  configure(settings);
  EXPECT_EQ(get("/metrics").body, "of /metrics");
}

TEST_F(StatusTest, OnlyWhatOrchestratorsCallIsOpen) {
  configure(test_settings());
  for (const ApiRoute& route : routes_) {
    const bool expected =
        route.method == "GET" && (route.path == "/" || route.path == "/health" ||
                                  route.path == "/ping" || route.path == "/startup" ||
                                  route.path == "/docs" || route.path == "/api-doc/openapi.json");
    EXPECT_EQ(route.is_open, expected) << route.method << " " << route.path;
  }
}

}  // namespace
}  // namespace lorax
