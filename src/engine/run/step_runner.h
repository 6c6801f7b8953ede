// Steps on the device: the forward of a plan, the choice of its tokens, and their way back. The
// forward of the next step may be asked for before the tokens of the last one are collected: those
// that it needs pass on the device from the one to the other. So the device has work while the host
// tells clients and plans.
//
//   forward(a); sample(); collect();                           one after the other
//   forward(a); sample(); forward(b); collect(); sample(); ... overlapping: collects a's
//
// Used by one thread.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/run/engine_request.h"
#include "engine/run/model_runner.h"
#include "engine/sample/sampler.h"
#include "engine/schedule/scheduler.h"

namespace lorax {

// Of one step.
struct StepTimes {
  std::chrono::steady_clock::time_point asked;  // when its forward was asked for
  bool follows = false;                         // the step before was asked for just now
  std::chrono::nanoseconds wait{0};             // of the host for the device
  // By events of the device, 0 unless that is measured: its work of both kinds, a forward's launch
  // included where the device waits for it; and the time without work between a step's parts, and
  // between the step before and one that follows.
  std::chrono::nanoseconds device_forward{0};
  std::chrono::nanoseconds device_sampling{0};
  std::chrono::nanoseconds device_idle{0};
};

class StepRunner {
 public:
  // What entry `entry` of the plan got: the next token, or the scores of some of its prompt's.
  using OnTokens = std::function<void(size_t entry, EngineRequest& request, bool is_next,
                                      std::span<const SampledToken> tokens)>;

  // The runner must outlive this. `measures_device`: by events around each step's parts.
  StepRunner(ModelRunner& runner, bool measures_device);

  // Asks for the forward of `plan`, which must stay as it is until it is collected. requests[i]
  // belongs to plan.work[i], and lives as long as that has not ended. `follows`: as in StepTimes.
  void forward(const StepPlan& plan, std::span<EngineRequest* const> requests, bool follows);
  // Asks for the choice of tokens of the last forward, for those that have not ended. What steps
  // before it gave must have been collected and reported: penalties count those tokens.
  void sample();
  // Waits for the oldest step and tells what it gave to those that have not ended.
  StepTimes collect(const OnTokens& on_tokens);

  // Forgets the steps that are under way. Precondition: as of Sampler::drop().
  void drop();

  // To warm up.
  Sampler& sampler() { return sampler_; }

 private:
  // A row of a forward whose logits are wanted.
  struct OutputRow {
    int64_t row = 0;       // of the forward's output
    size_t entry = 0;      // of the plan
    int64_t position = 0;  // in its sequence
    bool samples = false;  // the next token is wanted; else the score of the prompt's
  };
  // Rows of a step, [begin, end), that the sampler was asked for at once.
  struct Asked {
    size_t begin = 0;
    size_t end = 0;
    int64_t first = 0;     // output row of the first of its tokens
    bool samples = false;  // else all are of one prompt
  };
  struct Step {
    const StepPlan* plan = nullptr;
    bool follows = false;
    std::chrono::steady_clock::time_point asked_at;
    std::vector<EngineRequest*> requests;
    std::vector<OutputRow> rows;
    std::vector<Asked> asked;  // of the sampler
    std::unique_ptr<DeviceEvent> begun, computed, sampling, done;
  };

  Step& newest() { return steps_[newest_]; }
  Step& other(const Step& step) { return steps_[&step == &steps_[0] ? 1 : 0]; }
  // Which rows of an entry are wanted; output_rows counts on.
  SequenceStep plan_entry(Step& step, size_t entry, int64_t& output_rows);
  // Of step.rows [begin, end), whose logits are [rows, V], the first of them output row `first`.
  void sample_rows(Step& step, size_t begin, size_t end, int64_t first, const Tensor& logits);
  // Of neighbouring rows of one prompt.
  void score_prompt(Step& step, size_t begin, size_t end, int64_t first, const Tensor& logits);
  void measure(Step& step, StepTimes& times);

  ModelRunner& runner_;
  Device& device_;
  const bool measures_device_;
  Sampler sampler_;
  Buffer next_ids_;  // of each output row, as the last step chose them
  std::array<Step, 2> steps_;
  size_t newest_ = 0;
  std::vector<SequenceStep> inputs_;
  std::vector<SamplerRow> sampler_rows_;
  std::vector<int32_t> prompt_ids_;
};

}  // namespace lorax
