#include "engine/token_scores.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/error.h"

namespace lorax {
namespace {

TEST(TokenScoresTest, ProbabilitiesAddUpToOne) {
  const std::vector<float> logits = {1.0f, -2.0f, 30.0f, 29.5f,
                                     -std::numeric_limits<float>::infinity()};
  const double log_sum = log_sum_exp(logits);
  double sum = 0.0;
  for (int32_t id = 0; id < 5; ++id)
    sum += std::exp(static_cast<double>(logprob_of(logits, log_sum, id)));
  EXPECT_NEAR(sum, 1.0, 1e-6);
  EXPECT_NEAR(logprob_of(logits, log_sum, 2), -0.47407698, 1e-6);
}

TEST(TokenScoresTest, TheMostLikelyComeFirstAndTheLowerIdAmongEquals) {
  const std::vector<float> logits = {1.0f, 3.0f, 2.0f, 3.0f};
  const double log_sum = log_sum_exp(logits);
  const std::vector<SampledToken> tokens = most_likely(logits, log_sum, 3);
  ASSERT_EQ(tokens.size(), 3u);
  EXPECT_EQ(tokens[0].id, 1);
  EXPECT_EQ(tokens[1].id, 3);
  EXPECT_EQ(tokens[2].id, 2);
  EXPECT_EQ(tokens[2].logprob, logprob_of(logits, log_sum, 2));
  EXPECT_EQ(most_likely(logits, log_sum, 9).size(), 4u);
}

TEST(TokenScoresTest, NotANumberIsRefused) {
  EXPECT_THROW(log_sum_exp(std::vector<float>{1.0f, std::nanf(""), 2.0f}), Error);
  EXPECT_THROW(log_sum_exp(std::vector<float>{std::nanf(""), 1.0f}), Error);
}

}  // namespace
}  // namespace lorax
