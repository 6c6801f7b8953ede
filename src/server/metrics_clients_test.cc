// Metrics and notes beside what the clients saw: every figure is one that a client could have
// counted, for requests of all kinds and ends.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>

#include "server/observe/metrics.h"
#include "server/testing/api_fixture.h"

namespace lorax {
namespace {

class MetricsOfClientsTest : public ApiTest {
 protected:
  MetricsOfClientsTest() {
    routes_ = make_api_routes(
        {service_, tiny_tokenizer(), adapters_, chat_, metrics_, workers_, test_settings()});
  }

  double value(const std::string& series) const {
    const std::string text = "\n" + metrics_.text();
    const size_t at = text.find("\n" + series + " ");
    return at == std::string::npos ? 0 : std::stod(text.substr(at + series.size() + 2));
  }
  double count_of(const std::string& histogram) const { return value(histogram + "_count"); }
  double sum_of(const std::string& histogram) const { return value(histogram + "_sum"); }

  Metrics metrics_{{.service = &service_,
                    .adapters = [] { return AdapterStoreStats(); },
                    .adapter_name = [](const std::string& id) { return id; },
                    .block_size = 16,
                    .dropped_log_lines = {}}};
};

TEST_F(MetricsOfClientsTest, AllCountsAreThoseOfTheClients) {
  std::mt19937 random(11);
  service_.set_writer([&](const GenerationRequest&, size_t number) {
    if (number % 11 == 7) return scripted_failure(FailureKind::kRequest, "NaN");
    Script script = scripted_text(std::vector<std::string>(number % 5, "x"));
    if (number % 13 == 5) script.admission = GenerationService::Admission::kOverloaded;
    return script;
  });
  int requests = 0, successes = 0, tokens = 0, first_tokens = 0, next_tokens = 0;
  std::map<int, int> failures;  // by status
  for (int i = 0; i < 200; ++i) {
    const bool streams = random() % 2 == 0;
    const bool is_bad = random() % 6 == 0;
    const std::string body =
        is_bad ? R"({"inputs": 3})" : R"({"inputs": "a", "parameters": {"details": true}})";
    const Writer writer = send("POST", streams ? "/generate_stream" : "/generate", body);
    service_.run();
    wait_for_workers();
    ASSERT_TRUE(writer->ended());
    ++requests;
    const RequestNote note = writer->noted();
    tokens += static_cast<int>(note.generated_tokens);
    first_tokens += note.generated_tokens > 0 ? 1 : 0;
    next_tokens += std::max(0, static_cast<int>(note.generated_tokens) - 1);
    EXPECT_EQ(note.first_token.has_value(), note.generated_tokens > 0);
    const bool failed = writer->response().status != 200 || note.failed;
    if (!failed) {
      ++successes;
    } else {
      ++failures[note.failed ? 424 : writer->response().status];
    }
  }
  EXPECT_EQ(value("lorax_request_count"), requests);
  EXPECT_EQ(value("lorax_request_success"), successes);
  EXPECT_EQ(value("lorax_request_failure{err=\"validation\"}"), failures[422]);
  EXPECT_EQ(value("lorax_request_failure{err=\"overloaded\"}"), failures[429]);
  EXPECT_EQ(value("lorax_request_failure{err=\"generation\"}"), failures[424]);
  EXPECT_EQ(successes + failures[422] + failures[429] + failures[424], requests);
  EXPECT_GT(failures[422], 0);
  EXPECT_GT(failures[424], 0);
  EXPECT_GT(failures[429], 0);
  EXPECT_EQ(sum_of("lorax_request_generated_tokens"), tokens);
  EXPECT_EQ(count_of("lorax_request_generated_tokens"), successes);
  EXPECT_EQ(count_of("lorax_request_duration"), successes);
  EXPECT_EQ(count_of("lorax_request_time_to_first_token_duration"), first_tokens);
  EXPECT_EQ(count_of("lorax_request_inter_token_duration"), next_tokens);
  EXPECT_EQ(count_of("lorax_request_validation_duration"), requests - failures[422]);
}

// The times of a generation lie one after the other within the request's.
TEST_F(MetricsOfClientsTest, TimesOfTokensAddUpToNoMoreThanTheRequest) {
  Script script = scripted_text(std::vector<std::string>(40, "x"));
  script.pace = std::chrono::microseconds(500);
  service_.set_script(script);
  const Writer writer = send("POST", "/generate_stream", R"({"inputs": "a"})");
  service_.run();
  const double first = sum_of("lorax_request_time_to_first_token_duration");
  const double next = sum_of("lorax_request_inter_token_duration");
  const double total = sum_of("lorax_request_duration");
  EXPECT_EQ(count_of("lorax_request_inter_token_duration"), 39);
  EXPECT_GE(next, 39 * 0.0005) << "each is at least what the engine slept";
  EXPECT_LE(first + next, total);
  // The first token's time stays the first one's.
  const double noted = std::chrono::duration<double>(*writer->noted().first_token).count();
  EXPECT_NEAR(noted, first, 1e-5 * first + 1e-9);
}

}  // namespace
}  // namespace lorax
