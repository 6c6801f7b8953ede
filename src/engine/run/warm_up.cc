#include "engine/run/warm_up.h"

#include <algorithm>
#include <vector>

#include "engine/sample/sampler_state.h"
#include "engine/schedule/block_allocator.h"
#include "nn/kv_cache.h"

namespace lorax {
namespace {

// A step of `tokens` tokens in sequences of `length` each, the last one shorter. Returns its output
// rows. Keys and values go to the first page, whichever the position.
int64_t run_step(ModelRunner& runner, int64_t tokens, int64_t length, int32_t adapter) {
  const std::vector<int32_t> ids(static_cast<size_t>(length), 0);
  const std::vector<int32_t> blocks(static_cast<size_t>(pages_for(length, KvCache::kBlockSize)), 0);
  std::vector<SequenceStep> steps;
  for (int64_t left = tokens; left > 0; left -= length) {
    const auto count = static_cast<size_t>(std::min(left, length));
    steps.push_back({.tokens = std::span(ids).first(count), .blocks = blocks, .adapter = adapter});
  }
  return runner.step(steps);
}

// One row for the likeliest token, all others for one that everything applies to.
void choose_tokens(ModelRunner& runner, Sampler& sampler, int64_t output_rows) {
  SamplingParameters greedy;
  greedy.temperature = 0.0f;
  SamplingParameters all;
  all.top_k = 40;
  all.top_p = 0.9f;
  all.typical_p = 0.9f;
  all.min_p = 0.01f;
  all.repetition_penalty = 1.1f;
  all.watermark = true;
  const std::vector<int32_t> prompt = {0};
  const SamplerState likeliest(greedy, prompt);
  const SamplerState drawn(all, prompt);
  std::vector<SamplerRow> rows;
  while (std::ssize(rows) < std::min(output_rows, runner.limits().max_logits_rows)) {
    rows.push_back({.state = rows.empty() ? &likeliest : &drawn, .alternatives = 5});
  }
  sampler.sample(runner.device_logits(0, std::ssize(rows)), rows);
}

// Prompts of one sequence, or of as many as it takes.
void run_prompts(ModelRunner& runner, int64_t tokens, int32_t adapter) {
  const RunnerLimits& limits = runner.limits();
  const int64_t length = std::min(tokens, limits.max_length);
  run_step(runner, std::min(tokens, length * limits.max_sequences), length, adapter);
}

}  // namespace

void warm_up(ModelRunner& runner, Sampler& sampler, bool with_adapters) {
  const RunnerLimits& limits = runner.limits();
  if (!runner.device().can_capture()) {
    choose_tokens(runner, sampler, run_step(runner, 1, 1, kNoAdapter));
    return;
  }
  // Halves: the kernel that a product takes changes with its rows in steps that are far coarser.
  for (int64_t tokens = limits.max_tokens; tokens > 1; tokens /= 2) {
    run_prompts(runner, tokens, kNoAdapter);
    if (with_adapters) run_prompts(runner, tokens, 0);
  }
  runner.capture_graphs();
  const int64_t most = std::min(limits.max_sequences, limits.max_tokens);
  choose_tokens(runner, sampler, run_step(runner, most, 1, kNoAdapter));
}

}  // namespace lorax
