#include "engine/generator.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"

namespace lorax {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The sequences of one call and what has been generated for them.
class Batch {
 public:
  Batch(ModelRunner& runner, std::span<const GenerateRequest> requests, const TokenSink& on_token)
      : runner_(runner),
        requests_(requests),
        on_token_(on_token),
        results_(requests.size()),
        sampler_(runner.device()) {
    int32_t next_page = 0;
    for (size_t i = 0; i < requests.size(); ++i) {
      sequences_.push_back({.tokens = requests[i].prompt,
                            .cached = 0,
                            .blocks = {},
                            .adapter = requests[i].adapter});
      states_.emplace_back(requests[i].sampling, requests[i].prompt);
      take_pages(sequences_.back(), requests[i].max_new_tokens, KvCache::kBlockSize, next_page);
      sequences_.back().tokens.reserve(requests[i].prompt.size() +
                                       static_cast<size_t>(requests[i].max_new_tokens));
      if (requests[i].max_new_tokens > 0) running_.push_back(i);
    }
  }

  bool done() const { return running_.empty(); }
  std::vector<GenerateResult> take_results() { return std::move(results_); }

  // All pending tokens of every running sequence, then one new token for each.
  void step() {
    steps_.clear();
    for (size_t i : running_) {
      steps_.push_back(next_step(sequences_[i], sequences_[i].pending()));
    }
    const int64_t rows = runner_.step(steps_);
    runner_.logits(0, rows);
    sampler_rows_.clear();
    for (size_t i : running_) sampler_rows_.push_back({.state = &states_[i]});
    const std::span<const SampledToken> tokens =
        sampler_.sample(runner_.device_logits(), sampler_rows_);
    for (size_t row = 0; row < running_.size(); ++row) accept(running_[row], tokens[row]);
    std::erase_if(running_, [&](size_t i) { return has_ended(i); });
  }

 private:
  void accept(size_t i, const SampledToken& token) {
    if (token.id < 0) {
      fail("the model gave a logit that is not a number; the weights hold infinities or NaN");
    }
    states_[i].accept(token.id);
    sequences_[i].cached = sequences_[i].length();
    sequences_[i].tokens.push_back(token.id);
    results_[i].tokens.push_back(token);
    if (on_token_) on_token_(i, token);
  }

  bool has_ended(size_t i) {
    const std::vector<int32_t>& eos = requests_[i].eos_token_ids;
    if (std::ranges::find(eos, results_[i].tokens.back().id) != eos.end()) {
      results_[i].finish_reason = FinishReason::kEosToken;
      return true;
    }
    return static_cast<int64_t>(results_[i].tokens.size()) >= requests_[i].max_new_tokens;
  }

  ModelRunner& runner_;
  std::span<const GenerateRequest> requests_;
  const TokenSink& on_token_;
  std::vector<GenerateResult> results_;
  std::vector<Sequence> sequences_;
  std::vector<size_t> running_;  // requests that have not ended
  std::vector<SequenceStep> steps_;
  std::vector<SamplerState> states_;
  std::vector<SamplerRow> sampler_rows_;
  Sampler sampler_;
};

}  // namespace

RunnerLimits limits_for(std::span<const GenerateRequest> requests) {
  RunnerLimits limits;
  limits.max_sequences = static_cast<int64_t>(requests.size());
  limits.max_logits_rows = limits.max_sequences;
  for (const GenerateRequest& request : requests) {
    const int64_t prompt = static_cast<int64_t>(request.prompt.size());
    limits.max_tokens += prompt;
    const int64_t length = prompt + request.max_new_tokens;
    limits.max_length = std::max(limits.max_length, length);
    limits.kv_blocks += pages_for(length, KvCache::kBlockSize);
  }
  return limits;
}

std::vector<GenerateResult> generate(ModelRunner& runner, std::span<const GenerateRequest> requests,
                                     const TokenSink& on_token, GenerateTimings* timings) {
  Batch batch(runner, requests, on_token);
  GenerateTimings measured;
  Clock::time_point start = Clock::now();
  if (!batch.done()) batch.step();
  measured.prefill_seconds = seconds_since(start);
  start = Clock::now();
  while (!batch.done()) {
    batch.step();
    ++measured.decode_steps;
  }
  measured.decode_seconds = seconds_since(start);
  if (timings != nullptr) *timings = measured;
  return batch.take_results();
}

}  // namespace lorax
