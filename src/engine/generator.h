// Generates text for a fixed set of requests as one batch: prefill, then decode steps until each
// has ended.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/generation_service.h"
#include "engine/model_runner.h"
#include "engine/sampler.h"

namespace lorax {

struct GenerateRequest {
  std::vector<int32_t> prompt;
  int64_t max_new_tokens = 0;
  SamplingParameters sampling;
  std::vector<int32_t> eos_token_ids;  // ids that end it; empty: it ends at max_new_tokens only
  int32_t adapter = kNoAdapter;        // slot
};

struct GenerateResult {
  std::vector<SampledToken> tokens;  // the ending eos token included
  FinishReason finish_reason = FinishReason::kLength;
};

struct GenerateTimings {
  double prefill_seconds = 0.0;  // up to and including the first token of every request
  double decode_seconds = 0.0;   // all steps after that
  int64_t decode_steps = 0;
};

// Limits of a runner that can serve `requests` in one batch.
RunnerLimits limits_for(std::span<const GenerateRequest> requests);

// Called with the request's index and its new token, in order, while generation goes on.
using TokenSink = std::function<void(size_t request, const SampledToken& token)>;

// One result per request, in order. Requests are valid for the model, and within runner.limits().
std::vector<GenerateResult> generate(ModelRunner& runner, std::span<const GenerateRequest> requests,
                                     const TokenSink& on_token, GenerateTimings* timings = nullptr);

}  // namespace lorax
