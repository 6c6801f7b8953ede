#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "base/error.h"

namespace lorax {
namespace {

const std::vector<float> kLogits = {1.0f, 3.0f, 2.0f, 3.0f, -1.0f};

std::map<int32_t, double> frequencies(const SamplingParameters& parameters, int draws) {
  Sampler sampler;
  std::map<int32_t, double> counts;
  for (int step = 0; step < draws; ++step) {
    counts[sampler.sample(kLogits, parameters, static_cast<uint64_t>(step)).id] += 1.0 / draws;
  }
  return counts;
}

TEST(SamplerTest, GreedyTakesTheLowestIdAmongEqualMaxima) {
  Sampler sampler;
  const SampledToken token = sampler.sample(kLogits, {.temperature = 0.0f}, 7);
  EXPECT_EQ(token.id, 1);
  double sum = 0.0;
  for (float logit : kLogits) sum += std::exp(logit);
  EXPECT_NEAR(token.logprob, 3.0 - std::log(sum), 1e-6);
}

TEST(SamplerTest, FrequenciesFollowTheSoftmaxAtATemperature) {
  for (float temperature : {0.5f, 1.0f, 2.0f}) {
    double sum = 0.0;
    for (float logit : kLogits) sum += std::exp(logit / temperature);
    auto counts = frequencies({.temperature = temperature, .seed = 3}, 100000);
    for (size_t i = 0; i < kLogits.size(); ++i) {
      EXPECT_NEAR(counts[static_cast<int32_t>(i)], std::exp(kLogits[i] / temperature) / sum, 0.006);
    }
  }
}

TEST(SamplerTest, TopKKeepsTheMostLikely) {
  auto counts = frequencies({.top_k = 2}, 10000);
  EXPECT_NEAR(counts[1], 0.5, 0.02);
  EXPECT_NEAR(counts[3], 0.5, 0.02);
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_EQ(frequencies({.top_k = 1}, 100).size(), 1u);
}

TEST(SamplerTest, TopPKeepsTheSmallestSetThatReachesIt) {
  // softmax: 0.054, 0.397, 0.146, 0.397, 0.007: one id reaches 0.3, two 0.79, three 0.9.
  EXPECT_EQ(frequencies({.top_p = 0.3f}, 2000).size(), 1u);
  EXPECT_EQ(frequencies({.top_p = 0.79f}, 2000).size(), 2u);
  EXPECT_EQ(frequencies({.top_p = 0.9f}, 20000).size(), 3u);
  EXPECT_EQ(frequencies({.top_p = 1.0f}, 20000).size(), 5u);
}

TEST(SamplerTest, TheSameSeedAndStepGiveTheSameToken) {
  Sampler a;
  Sampler b;
  int differ = 0;
  for (uint64_t step = 0; step < 200; ++step) {
    const int32_t id = a.sample(kLogits, {.seed = 11}, step).id;
    EXPECT_EQ(id, b.sample(kLogits, {.seed = 11}, step).id);
    if (id != b.sample(kLogits, {.seed = 12}, step).id) ++differ;
  }
  EXPECT_GT(differ, 50);
}

TEST(SamplerTest, RefusesBadParametersAndLogits) {
  EXPECT_THROW(validate({.temperature = -1.0f}), Error);
  EXPECT_THROW(validate({.temperature = std::nanf("")}), Error);
  EXPECT_THROW(validate({.top_k = -1}), Error);
  EXPECT_THROW(validate({.top_p = 0.0f}), Error);
  EXPECT_THROW(validate({.top_p = 1.5f}), Error);
  validate({.temperature = 0.0f, .top_k = 0, .top_p = 1.0f});
  Sampler sampler;
  EXPECT_THROW(sampler.sample(std::vector<float>{0.0f, std::nanf("")}, {}, 0), Error);
  const std::vector<float> with_infinity = {0.0f, -std::numeric_limits<float>::infinity()};
  for (uint64_t step = 0; step < 50; ++step)
    EXPECT_EQ(sampler.sample(with_infinity, {}, step).id, 0);
}

}  // namespace
}  // namespace lorax
