// Chooses the next token from one row of logits. Float32 throughout; stateless, so a request's
// choice depends on its own logits, parameters and position alone.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/sampling_parameters.h"

namespace lorax {

// Throws Error that names the flag or field and its range.
void validate(const SamplingParameters& parameters);

struct SampledToken {
  int32_t id = 0;
  // Natural logarithm of softmax(logits)[id], before temperature, top-k and top-p.
  float logprob = 0.0f;
};

class Sampler {
 public:
  // Greedy takes the lowest id among equal maxima (torch.argmax on a CPU). Otherwise softmax of
  // logits / temperature is cut by top_k, then by top_p over what is left, in descending order of
  // (logit, then lower id first), as transformers' warpers do, and one draw is made with the number
  // random_unit(seed, step). No logit may be NaN: throws Error if one is.
  SampledToken sample(std::span<const float> logits, const SamplingParameters& parameters,
                      uint64_t step);

 private:
  int32_t draw(std::span<const float> logits, const SamplingParameters& parameters, double unit);

  // Scratch, kept between calls.
  struct Candidate {
    float logit;
    int32_t id;
  };
  std::vector<Candidate> candidates_;
};

// A number in [0, 1) that depends on (seed, step) alone: two rounds of the SplitMix64 finaliser.
double random_unit(uint64_t seed, uint64_t step);

}  // namespace lorax
