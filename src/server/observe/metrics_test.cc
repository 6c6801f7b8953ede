#include "server/observe/metrics.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

namespace lorax {
namespace {

using std::chrono::milliseconds;

// A service that is what it is told to be.
class StillService final : public GenerationService {
 public:
  Submitted submit(GenerationRequest, std::shared_ptr<GenerationSink>) override {
    return {.admission = Admission::kStopping};
  }
  void cancel(RequestId) override {}
  const ServiceLimits& limits() const override { return limits_; }
  ServiceStats stats() const override { return stats_; }
  bool healthy() const override { return true; }

  ServiceLimits limits_{.max_input_tokens = 1000, .max_total_tokens = 4096};
  ServiceStats stats_;
};

class MetricsTest : public testing::Test {
 protected:
  // The value of one line of the text, "" without one.
  std::string value(const std::string& series) {
    const std::string text = metrics_.text();
    const size_t at = ("\n" + text).find("\n" + series + " ");
    if (at == std::string::npos) return "";
    const size_t begin = at + series.size() + 1;
    return text.substr(begin, text.find('\n', begin) - begin);
  }

  StillService service_;
  AdapterStoreStats adapters_;
  Metrics metrics_{{.service = &service_,
                    .adapters = [this] { return adapters_; },
                    .adapter_name = [](const std::string& id) { return id.substr(1); },
                    .block_size = 16,
                    .dropped_log_lines = [] { return uint64_t{0}; }}};
};

TEST_F(MetricsTest, CountsRequestsAndFailuresByKind) {
  for (int i = 0; i < 3; ++i) metrics_.on_request("/generate");
  metrics_.on_failure("validation");
  metrics_.on_failure("overloaded");
  metrics_.on_failure("validation");
  EXPECT_EQ(value("lorax_request_count"), "3");
  EXPECT_EQ(value("lorax_request_success"), "0");
  EXPECT_EQ(value("lorax_request_failure{err=\"validation\"}"), "2");
  EXPECT_EQ(value("lorax_request_failure{err=\"overloaded\"}"), "1");
}

TEST_F(MetricsTest, TimesAreInSecondsAndLengthsReachTheLimits) {
  metrics_.on_validated(milliseconds(2), 900, 4096);
  metrics_.on_first_token(milliseconds(250));
  metrics_.on_next_token(milliseconds(10));
  RequestReport report;
  report.generated_tokens = 10;
  report.total = milliseconds(600);
  report.inference = milliseconds(500);
  report.queue = milliseconds(50);
  metrics_.on_success(report);
  EXPECT_EQ(value("lorax_request_success"), "1");
  EXPECT_EQ(value("lorax_request_input_length_bucket{le=\"890\"}"), "0");
  EXPECT_EQ(value("lorax_request_input_length_bucket{le=\"900\"}"), "1");
  EXPECT_EQ(value("lorax_request_max_new_tokens_bucket{le=\"4096\"}"), "1");
  EXPECT_EQ(value("lorax_request_time_to_first_token_duration_sum"), "0.25");
  EXPECT_EQ(value("lorax_request_inter_token_duration_count"), "1");
  EXPECT_EQ(value("lorax_request_duration_sum"), "0.6");
  EXPECT_EQ(value("lorax_request_queue_duration_sum"), "0.05");
  EXPECT_EQ(value("lorax_request_mean_time_per_token_duration_sum"), "0.05");
}

TEST_F(MetricsTest, StepsAreCountedByMethod) {
  metrics_.on_step({.is_prefill = true, .sequences = 3, .tokens = 100, .time = milliseconds(20)});
  metrics_.on_step({.sequences = 5, .tokens = 5, .time = milliseconds(2)});
  metrics_.on_step({.succeeded = false, .sequences = 5, .tokens = 5});
  EXPECT_EQ(value("lorax_batch_inference_count{method=\"prefill\"}"), "1");
  EXPECT_EQ(value("lorax_batch_inference_count{method=\"decode\"}"), "2");
  EXPECT_EQ(value("lorax_batch_inference_success{method=\"decode\"}"), "1");
  EXPECT_EQ(value("lorax_batch_inference_failure{method=\"decode\"}"), "1");
  EXPECT_EQ(value("lorax_batch_inference_duration_sum{method=\"prefill\"}"), "0.02");
  EXPECT_EQ(value("lorax_batch_next_size_bucket{le=\"4\"}"), "1");
}

TEST_F(MetricsTest, TellsTheStateUnderBothNames) {
  service_.stats_.waiting = 7;
  service_.stats_.running = 3;
  service_.stats_.kv_blocks = 200;
  service_.stats_.kv_blocks_used = 50;
  adapters_.host.loads = 5;
  adapters_.device.loads = 9;
  EXPECT_EQ(value("lorax_queue_length"), "7");
  EXPECT_EQ(value("vllm:num_requests_waiting"), "7");
  EXPECT_EQ(value("vllm:num_requests_running"), "3");
  EXPECT_EQ(value("vllm:kv_cache_usage_perc"), "0.25");
  EXPECT_EQ(value("lorax_batch_current_max_tokens"), "800");
  EXPECT_EQ(value("lorax_adapter_loads{tier=\"host\"}"), "5");
  EXPECT_EQ(value("lorax_adapter_loads{tier=\"device\"}"), "9");
}

TEST_F(MetricsTest, AdapterListsHaveNamesAndABound) {
  adapters_.slots = 12;
  service_.stats_.running_adapters = {"/a", "/b"};
  for (int i = 0; i < 1000; ++i) service_.stats_.waiting_adapters.push_back("/x");
  const std::string text = metrics_.text();
  EXPECT_NE(text.find("vllm:lora_requests_info{max_lora=\"12\",running_lora_adapters=\"a,b\","
                      "waiting_lora_adapters=\"x,x"),
            std::string::npos);
  const size_t line = text.find("vllm:lora_requests_info{");
  EXPECT_EQ(std::ranges::count(text.substr(line, text.find('\n', line) - line), 'x'),
            static_cast<ptrdiff_t>(ServiceCollector::kMaxListedAdapters) + 1);  // of "max_lora"
  // One series only, however often the lists change.
  service_.stats_.running_adapters = {"/c"};
  const std::string later = metrics_.text();
  EXPECT_EQ(later.find("running_lora_adapters=\"a,b\""), std::string::npos);
  EXPECT_NE(later.find("running_lora_adapters=\"c\""), std::string::npos);
}

// Whoever may not see an adapter does not read its name, whatever the form and the list.
TEST_F(MetricsTest, ListsNameOnlyWhatTheReaderSees) {
  service_.stats_.running_adapters = {"/mine", "/secret", "/own"};
  service_.stats_.waiting_adapters = {"/secret", "/mine"};
  const auto sees = [](const std::string& name) { return name != "secret"; };
  const std::string text = metrics_.text(sees);
  EXPECT_NE(text.find("running_lora_adapters=\"mine,own\",waiting_lora_adapters=\"mine\""),
            std::string::npos);
  EXPECT_EQ(text.find("secret"), std::string::npos);
  EXPECT_EQ(metrics_.json(sees).find("secret"), std::string::npos);
  EXPECT_NE(metrics_.text().find("running_lora_adapters=\"mine,secret,own\""), std::string::npos);
}

TEST_F(MetricsTest, JsonHoldsTheSame) {
  metrics_.on_failure("validation");
  metrics_.on_first_token(milliseconds(250));
  const boost::json::value json = boost::json::parse(metrics_.json());
  const boost::json::value& failure = json.at("lorax_request_failure");
  EXPECT_EQ(failure.at("type"), "counter");
  EXPECT_EQ(failure.at("data").at(0).at("key").at("err"), "validation");
  EXPECT_EQ(failure.at("data").at(0).at("value"), 1.0);
  const boost::json::value& times = json.at("lorax_request_time_to_first_token_duration");
  EXPECT_EQ(times.at("data").at(0).at("value").at("sum"), 0.25);
  EXPECT_EQ(times.at("data").at(0).at("value").at("buckets").at("+Inf"), 1);
}

}  // namespace
}  // namespace lorax
