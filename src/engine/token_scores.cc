#include "engine/token_scores.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace lorax {

double log_sum_exp(std::span<const float> logits) {
  const float largest = *std::ranges::max_element(logits);
  double sum = 0.0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit - largest));
  if (std::isnan(sum)) {
    fail("the model gave a logit that is not a number; the weights hold infinities or NaN");
  }
  return largest + std::log(sum);
}

float logprob_of(std::span<const float> logits, double log_sum, int32_t id) {
  return static_cast<float>(static_cast<double>(logits[static_cast<size_t>(id)]) - log_sum);
}

std::vector<SampledToken> most_likely(std::span<const float> logits, double log_sum,
                                      int64_t count) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto end = ids.begin() + std::min<int64_t>(count, static_cast<int64_t>(ids.size()));
  std::partial_sort(ids.begin(), end, ids.end(), [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)];
    const float y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  std::vector<SampledToken> tokens;
  for (auto it = ids.begin(); it != end; ++it) {
    tokens.push_back({*it, logprob_of(logits, log_sum, *it)});
  }
  return tokens;
}

}  // namespace lorax
