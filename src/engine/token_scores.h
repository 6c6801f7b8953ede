// Probabilities of tokens, for reports: of one row of logits, float32, natural logarithms.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/sampler.h"

namespace lorax {

// log(sum(exp(logits))). Throws Error if a logit is NaN.
double log_sum_exp(std::span<const float> logits);

// The logarithm of softmax(logits)[id].
float logprob_of(std::span<const float> logits, double log_sum, int32_t id);

// The `count` most likely tokens (all, if there are fewer), most likely first, the lower id first
// among equals.
std::vector<SampledToken> most_likely(std::span<const float> logits, double log_sum, int64_t count);

}  // namespace lorax
