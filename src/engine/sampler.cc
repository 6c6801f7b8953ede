#include "engine/sampler.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/error.h"
#include "base/mix64.h"

namespace lorax {

double random_unit(uint64_t seed, uint64_t step) {
  constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;
  const uint64_t bits = mix64(mix64(seed + kGolden) + (step + 1) * kGolden);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

void validate(const SamplingParameters& parameters) {
  if (!(parameters.temperature >= 0.0f) || !std::isfinite(parameters.temperature)) {
    fail("temperature is {}; it must be 0 (greedy) or above", parameters.temperature);
  }
  if (parameters.top_k < 0) fail("top_k is {}; it must be 0 (off) or above", parameters.top_k);
  if (!(parameters.top_p > 0.0f && parameters.top_p <= 1.0f)) {
    fail("top_p is {}; it must be above 0 and at most 1", parameters.top_p);
  }
}

SampledToken Sampler::sample(std::span<const float> logits, const SamplingParameters& parameters,
                             uint64_t step) {
  LORAX_CHECK(!logits.empty());
  size_t best = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) {
      fail("the model gave a logit that is not a number; the weights hold infinities or NaN");
    }
    if (logits[i] > logits[best]) best = i;
  }
  double sum = 0.0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit - logits[best]));
  SampledToken token;
  token.id = parameters.temperature == 0.0f
                 ? static_cast<int32_t>(best)
                 : draw(logits, parameters, random_unit(parameters.seed, step));
  token.logprob = static_cast<float>(
      static_cast<double>(logits[static_cast<size_t>(token.id)] - logits[best]) - std::log(sum));
  return token;
}

int32_t Sampler::draw(std::span<const float> logits, const SamplingParameters& parameters,
                      double unit) {
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  }
  const auto more_likely = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  size_t count = candidates_.size();
  if (parameters.top_k > 0 && static_cast<size_t>(parameters.top_k) < count) {
    count = static_cast<size_t>(parameters.top_k);
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(count - 1),
                     candidates_.end(), more_likely);
    candidates_.resize(count);
  }
  std::sort(candidates_.begin(), candidates_.end(), more_likely);

  const double top = candidates_.front().logit;
  const auto weight = [&](const Candidate& candidate) {
    return std::exp((static_cast<double>(candidate.logit) - top) / parameters.temperature);
  };
  double total = 0.0;
  for (const Candidate& candidate : candidates_) total += weight(candidate);
  double kept = total;
  if (parameters.top_p < 1.0f) {
    kept = 0.0;
    size_t last = 0;
    while (last < count && kept < parameters.top_p * total) kept += weight(candidates_[last++]);
    count = last;
  }
  double left = unit * kept;
  for (size_t i = 0; i + 1 < count; ++i) {
    left -= weight(candidates_[i]);
    if (left < 0.0) return candidates_[i].id;
  }
  return candidates_[count - 1].id;
}

}  // namespace lorax
