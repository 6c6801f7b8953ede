#include "engine/run/step_runner.h"

#include <algorithm>

#include "base/check.h"

namespace lorax {
namespace {

using Clock = std::chrono::steady_clock;

}  // namespace

StepRunner::StepRunner(ModelRunner& runner, bool measures_device)
    : runner_(runner),
      device_(runner.device()),
      measures_device_(measures_device),
      sampler_(device_),
      next_ids_(device_, static_cast<size_t>(runner.limits().max_tokens) * sizeof(int32_t)) {
  for (Step& step : steps_) {
    for (auto* event : {&step.begun, &step.computed, &step.sampling, &step.done}) {
      *event = device_.make_event();
    }
  }
}

void StepRunner::forward(const StepPlan& plan, std::span<EngineRequest* const> requests,
                         bool follows) {
  LORAX_CHECK(requests.size() == plan.work.size());
  newest_ = 1 - newest_;
  Step& step = newest();
  LORAX_CHECK(step.plan == nullptr, "three steps at once");
  step.plan = &plan;
  step.follows = follows;
  step.asked_at = Clock::now();
  step.requests.assign(requests.begin(), requests.end());
  step.rows.clear();
  step.asked.clear();
  inputs_.clear();
  int64_t output_rows = 0;
  for (size_t entry = 0; entry < plan.work.size(); ++entry) {
    inputs_.push_back(plan_entry(step, entry, output_rows));
  }
  if (measures_device_) step.begun->record();
  runner_.step(inputs_, Tensor(next_ids_.data(), DType::kInt32, {runner_.limits().max_tokens}));
  if (measures_device_) step.computed->record();
}

SequenceStep StepRunner::plan_entry(Step& step, size_t entry, int64_t& output_rows) {
  const StepWork& work = step.plan->work[entry];
  const ScheduledSequence& sequence = *work.sequence;
  EngineRequest& request = *step.requests[entry];
  const int64_t end = work.begin + work.tokens;
  SequenceStep input;
  input.tokens = std::span(sequence.tokens)
                     .subspan(static_cast<size_t>(work.begin), static_cast<size_t>(work.tokens));
  input.position = work.begin;
  input.blocks = sequence.blocks.ids();
  input.adapter = sequence.slot();
  input.adapter_from = sequence.adapter_from;
  input.output = SequenceStep::Output::kNone;
  if (input.tokens.back() == kUnknownToken) input.last_id = request.output_row;

  const int64_t first_prompt_row = request.take_prompt_rows(work.begin, end);
  if (first_prompt_row < end) {
    input.output = SequenceStep::Output::kAllRows;
    const int64_t last = std::min(end, request.prompt_tokens() - 1);
    for (int64_t position = first_prompt_row; position < last; ++position) {
      step.rows.push_back({output_rows + position - work.begin, entry, position, false});
    }
    output_rows += work.tokens;
  } else if (work.samples || (output_rows == 0 && entry + 1 == step.plan->work.size())) {
    input.output = SequenceStep::Output::kLastRow;  // a forward has at least one output row
    ++output_rows;
  }
  if (work.samples) {
    step.rows.push_back({output_rows - 1, entry, end - 1, true});
    request.output_row = static_cast<int32_t>(output_rows - 1);
  }
  return input;
}

void StepRunner::sample() {
  Step& step = newest();
  if (measures_device_) step.sampling->record();
  for (size_t i = 0; i < step.rows.size();) {
    const int64_t first = step.rows[i].row;
    const int64_t most = first + runner_.limits().max_logits_rows;
    size_t end = i;
    while (end < step.rows.size() && step.rows[end].row < most) ++end;
    const Tensor logits = runner_.device_logits(first, step.rows[end - 1].row + 1 - first);
    sample_rows(step, i, end, first, logits);
    i = end;
  }
  step.done->record();
}

void StepRunner::sample_rows(Step& step, size_t begin, size_t end, int64_t first,
                             const Tensor& logits) {
  sampler_rows_.assign(static_cast<size_t>(logits.dim(0)), {});
  bool samples = false;
  for (size_t i = begin; i < end;) {
    const OutputRow& row = step.rows[i];
    size_t next = i + 1;
    if (!row.samples) {
      while (next < end && step.rows[next].entry == row.entry && !step.rows[next].samples) ++next;
    }
    if (!step.plan->work[row.entry].sequence->ended) {
      const EngineRequest& request = *step.requests[row.entry];
      if (row.samples) {
        sampler_rows_[static_cast<size_t>(row.row - first)] = {
            .state = &request.sampler(), .alternatives = request.request().alternatives};
        samples = true;
      } else {
        score_prompt(step, i, next, first, logits);
      }
    }
    i = next;
  }
  if (!samples) return;
  const Tensor ids(static_cast<int32_t*>(next_ids_.data()) + first, DType::kInt32, {logits.dim(0)});
  sampler_.begin_sample(logits, sampler_rows_, ids);
  step.asked.push_back({begin, end, first, /*samples=*/true});
}

void StepRunner::score_prompt(Step& step, size_t begin, size_t end, int64_t first,
                              const Tensor& logits) {
  const OutputRow& front = step.rows[begin];
  const GenerationRequest& request = step.requests[front.entry]->request();
  prompt_ids_.clear();
  for (size_t i = begin; i < end; ++i) {
    prompt_ids_.push_back(request.prompt[static_cast<size_t>(step.rows[i].position + 1)]);
  }
  const Tensor of_prompt = logits.slice(0, front.row - first, step.rows[end - 1].row + 1 - first);
  sampler_.begin_score(of_prompt, prompt_ids_, request.prompt_alternatives);
  step.asked.push_back({begin, end, front.row, /*samples=*/false});
}

StepTimes StepRunner::collect(const OnTokens& on_tokens) {
  Step& before = other(newest());
  Step& step = before.plan != nullptr ? before : newest();
  const Clock::time_point start = Clock::now();
  step.done->wait();
  StepTimes times{.asked = step.asked_at, .follows = step.follows, .wait = Clock::now() - start};
  for (const Asked& asked : step.asked) {
    const std::span<const SampledToken> tokens = sampler_.finish();
    for (size_t i = asked.begin; i < asked.end; ++i) {
      const OutputRow& row = step.rows[i];
      const bool is_told = row.samples == asked.samples && (row.samples || i == asked.begin);
      if (!is_told || step.plan->work[row.entry].sequence->ended) continue;
      const std::span<const SampledToken> of_row =
          row.samples ? tokens.subspan(static_cast<size_t>(row.row - asked.first), 1) : tokens;
      on_tokens(row.entry, *step.requests[row.entry], row.samples, of_row);
    }
  }
  if (measures_device_) measure(step, times);
  step.plan = nullptr;
  return times;
}

void StepRunner::drop() {
  for (Step& step : steps_) step.plan = nullptr;
  sampler_.drop();
}

void StepRunner::measure(Step& step, StepTimes& times) {
  const auto between = [](DeviceEvent& from, DeviceEvent& to) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
        std::chrono::duration<double>(to.seconds_since(from)));
  };
  times.device_forward = between(*step.begun, *step.computed);
  times.device_sampling = between(*step.sampling, *step.done);
  times.device_idle = between(*step.computed, *step.sampling);
  if (step.follows) times.device_idle += between(*other(step).done, *step.begun);
}

}  // namespace lorax
