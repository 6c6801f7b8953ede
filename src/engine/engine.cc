#include "engine/engine.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "base/error.h"
#include "engine/warm_up.h"

namespace lorax {
namespace {

// How old the lists of adapters in stats() may be while steps run.
constexpr std::chrono::milliseconds kListAge{50};

std::string message_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& exception) {
    return exception.what();
  } catch (...) {
    return "unknown error";
  }
}

// What is wrong with a request that the service cannot take; empty if nothing is.
std::string fault_of(const GenerationRequest& request, const ServiceLimits& limits,
                     int64_t vocab_size) {
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt == 0) return "the prompt is empty; give at least one token";
  for (int32_t id : request.prompt) {
    if (id < 0 || id >= vocab_size) {
      return fmt::format("the prompt holds id {}; the model's vocabulary has ids 0 to {}", id,
                         vocab_size - 1);
    }
  }
  if (request.max_new_tokens < 1) {
    return fmt::format("max_new_tokens is {}; it must be at least 1", request.max_new_tokens);
  }
  if (prompt > limits.max_input_tokens ||
      request.max_new_tokens > limits.max_total_tokens - prompt) {
    return fmt::format(
        "the prompt has {} tokens and max_new_tokens is {}; prompts may have {} tokens, and both "
        "together {}",
        prompt, request.max_new_tokens, limits.max_input_tokens, limits.max_total_tokens);
  }
  return {};
}

}  // namespace

Engine::Engine(LoadedModel& model, const Tokenizer* tokenizer, EngineOptions options)
    : model_(model), tokenizer_(tokenizer), on_step_(options.on_step) {
  check_options(options);
  Device& device = model.device();
  const std::vector<AdapterModule>& modules = model.model().adapter_modules();
  tables_ = std::make_unique<AdapterTables>(device, static_cast<int64_t>(modules.size()),
                                            options.adapter_slots, model.dtype());
  backend_ = std::make_unique<ModelAdapterBackend>(device, modules, *tables_, options.base_name,
                                                   options.on_warning);
  plan_ = plan_engine(model, options, backend_->is_unified());
  plan_memory(plan_, model, options);
  const bool with_adapters = plan_.serves_adapters();
  if (with_adapters && options.adapter_bytes && !backend_->is_unified()) {
    backend_->take_device_memory(plan_.memory.adapters);
  }
  plan_.store.on_settled = [this] {
    const std::lock_guard lock(mutex_);
    woken_ = true;
    wake_.notify_one();
  };
  store_ = std::make_unique<AdapterStore>(*backend_, plan_.store);
  exchange_ = std::make_unique<StoreAdapterExchange>(*store_);
  runner_ = std::make_unique<ModelRunner>(device, model.model(), plan_.runner,
                                          with_adapters ? tables_.get() : nullptr);
  scheduler_ = std::make_unique<Scheduler>(plan_.scheduler, *exchange_);
  sampler_ = std::make_unique<Sampler>(device);
  const Clock::time_point start = Clock::now();
  warm_up(*runner_, *sampler_, with_adapters);
  warm_up_seconds_ = std::chrono::duration<double>(Clock::now() - start).count();
  publish(/*with_lists=*/true);
  thread_ = std::thread([this] { run(); });
}

Engine::~Engine() { stop(std::chrono::milliseconds(0)); }

// --- Other threads ---------------------------------------------------------------------------

GenerationService::Submitted Engine::submit(GenerationRequest request,
                                            std::shared_ptr<GenerationSink> sink) {
  const Clock::time_point now = Clock::now();
  const std::lock_guard lock(mutex_);
  if (stopping_ || !healthy_) return {.admission = Admission::kStopping};
  if (in_flight_ >= plan_.limits.max_concurrent_requests) {
    return {.admission = Admission::kOverloaded};
  }
  ++in_flight_;
  const RequestId id = ++last_id_;
  // More than a few would only push each other's adapters out: their turn may come much later.
  AdapterTicket ahead;
  if (!request.adapter.empty() && in_flight_ <= plan_.scheduler.max_running &&
      std::ssize(inbox_) < plan_.scheduler.adapters.ahead) {
    ahead = store_->request_ahead(request.adapter);
  }
  inbox_.push_back({id, std::move(request), std::move(sink), now, std::move(ahead)});
  wake_.notify_one();
  return {.admission = Admission::kAccepted, .id = id};
}

void Engine::cancel(RequestId id) {
  const std::lock_guard lock(mutex_);
  cancelled_.push_back(id);
  wake_.notify_one();
}

ServiceStats Engine::stats() const {
  const std::lock_guard lock(mutex_);
  ServiceStats stats = stats_;
  stats.waiting += static_cast<int64_t>(inbox_.size());
  return stats;
}

void Engine::stop(std::chrono::milliseconds grace) {
  {
    const std::lock_guard lock(mutex_);
    if (!stopping_) stop_at_ = Clock::now() + grace;
    stopping_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

// --- The engine's thread ---------------------------------------------------------------------

void Engine::run() {
  while (wait_for_work()) {
    take_inbox();
    const StepPlan& plan = scheduler_->schedule(Clock::now());
    asked_ahead_.clear();
    for (const EndedRequest& ended : plan.ended) end(ended);
    busy_ = !plan.work.empty();
    if (busy_) step(plan);
    publish(/*with_lists=*/!busy_);
  }
  take_inbox();
  end_all(FinishReason::kCancelled, FailureKind::kNone, "");
  publish(/*with_lists=*/true);
}

// Sleeps while there is nothing to do, then takes what has come. False once the engine is to end.
bool Engine::wait_for_work() {
  std::unique_lock lock(mutex_);
  bool ends = false;
  while (true) {
    const Clock::time_point now = Clock::now();
    const bool has_requests = !scheduler_->idle() || !inbox_.empty();
    ends = stopping_ && (!has_requests || now >= stop_at_);
    if (ends || busy_ || woken_ || !inbox_.empty() || !cancelled_.empty()) break;
    const Clock::time_point event = scheduler_->next_event(now);
    if (event <= now) break;
    const Clock::time_point until = stopping_ ? std::min(event, stop_at_) : event;
    if (until == Clock::time_point::max()) {
      wake_.wait(lock);
    } else if (wake_.wait_until(lock, until) == std::cv_status::timeout && until == event) {
      break;
    }
  }
  woken_ = false;
  std::swap(inbox_, taken_);
  std::swap(cancelled_, taken_cancels_);
  return !ends;
}

void Engine::take_inbox() {
  for (Submission& submission : taken_) accept(std::move(submission));
  taken_.clear();
  for (RequestId id : taken_cancels_) {
    if (const auto ended = scheduler_->cancel(id, Clock::now())) end(*ended);
  }
  taken_cancels_.clear();
}

void Engine::accept(Submission submission) {
  const RequestId id = submission.id;
  const GenerationRequest& request = submission.request;
  const std::string fault = fault_of(request, plan_.limits, runner_->vocab_size());
  if (!fault.empty() || !healthy_) return reject(std::move(submission), fault);
  if (submission.ahead) asked_ahead_.push_back(std::move(submission.ahead));
  ScheduledRequest scheduled = {.id = id,
                                .adapter = request.adapter,
                                .prompt = request.prompt,
                                .max_new_tokens = request.max_new_tokens,
                                .reuse_prefix = !request.prompt_logprobs,
                                .deadline = request.deadline};
  requests_[id] = std::make_unique<EngineRequest>(
      std::move(submission.request), std::move(submission.sink), tokenizer_, submission.time);
  scheduler_->submit(std::move(scheduled), Clock::now());
}

void Engine::reject(Submission submission, const std::string& fault) {
  requests_[submission.id] =
      std::make_unique<EngineRequest>(std::move(submission.request), std::move(submission.sink),
                                      /*tokenizer=*/nullptr, submission.time);
  end(submission.id, {.reason = FinishReason::kFailed,
                      .failure = healthy_ ? FailureKind::kRequest : FailureKind::kService,
                      .error = healthy_ ? fault : "the engine has failed",
                      .delta = {},
                      .stop_sequence = {}});
}

void Engine::step(const StepPlan& plan) {
  const Clock::time_point start = Clock::now();
  for (const StepWork& work : plan.work) {
    if (!requests_.at(work.sequence->id)->note_step(start)) continue;
    counts_.prompt_tokens += static_cast<uint64_t>(work.sequence->prompt_length);
  }
  StepReport report = {.is_prefill = plan.tokens > std::ssize(plan.work),
                       .sequences = std::ssize(plan.work),
                       .tokens = plan.tokens};
  try {
    forward(plan);
    sample(plan);
  } catch (...) {
    report.succeeded = false;
    on_step_(report);
    // The device or the model: nothing that was computed can be trusted.
    healthy_ = false;
    end_all(FinishReason::kFailed, FailureKind::kService,
            fmt::format("the engine has failed: {}", message_of(std::current_exception())));
    return;
  }
  commit();
  ++counts_.steps;
  counts_.step_tokens = plan.tokens;
  report.time = counts_.step_time = Clock::now() - start;
  on_step_(report);
}

void Engine::forward(const StepPlan& plan) {
  steps_.clear();
  step_requests_.clear();
  rows_.clear();
  int64_t output_rows = 0;
  for (size_t entry = 0; entry < plan.work.size(); ++entry) {
    const StepWork& work = plan.work[entry];
    const ScheduledSequence& sequence = *work.sequence;
    EngineRequest& request = *requests_.at(sequence.id);
    const int64_t begin = sequence.cached;
    const int64_t end = begin + work.tokens;
    SequenceStep::Output output = SequenceStep::Output::kNone;
    const int64_t first_prompt_row = request.first_prompt_row(begin, end);
    if (first_prompt_row < end) {
      output = SequenceStep::Output::kAllRows;
      const int64_t last = std::min(end, request.prompt_tokens() - 1);
      for (int64_t position = first_prompt_row; position < last; ++position) {
        rows_.push_back({output_rows + position - begin, entry, position, /*samples=*/false});
      }
      output_rows += work.tokens;
    } else if (work.samples || (output_rows == 0 && entry + 1 == plan.work.size())) {
      output = SequenceStep::Output::kLastRow;  // a forward has at least one output row
      ++output_rows;
    }
    if (work.samples) rows_.push_back({output_rows - 1, entry, end - 1, /*samples=*/true});
    const auto tokens = std::span(sequence.tokens)
                            .subspan(static_cast<size_t>(begin), static_cast<size_t>(work.tokens));
    steps_.push_back({.tokens = tokens,
                      .position = begin,
                      .blocks = sequence.blocks.ids(),
                      .adapter = sequence.slot(),
                      .output = output});
    step_requests_.push_back(&request);
  }
  runner_->step(steps_);
}

void Engine::sample(const StepPlan& plan) {
  results_.assign(plan.work.size(), {});
  for (size_t i = 0; i < rows_.size();) {
    const int64_t first = rows_[i].row;
    size_t end = i;
    while (end < rows_.size() && rows_[end].row < first + plan_.runner.max_logits_rows) ++end;
    const Tensor logits = runner_->device_logits(first, rows_[end - 1].row + 1 - first);
    sample_rows(plan, std::span(rows_).subspan(i, end - i), first, logits);
    i = end;
  }
  // Sequences that end let pages and adapters go, which the device must no longer read.
  if (rows_.empty()) model_.device().synchronize();
}

void Engine::sample_rows(const StepPlan& plan, std::span<const OutputRow> rows, int64_t first,
                         const Tensor& logits) {
  sampler_rows_.assign(static_cast<size_t>(logits.dim(0)), {});
  bool samples = false;
  for (size_t i = 0; i < rows.size();) {
    size_t end = i + 1;
    if (rows[i].samples) {
      const EngineRequest& request = *step_requests_[rows[i].entry];
      sampler_rows_[static_cast<size_t>(rows[i].row - first)] = {
          .state = &request.sampler(), .alternatives = request.request().alternatives};
      samples = true;
    } else {
      while (end < rows.size() && rows[end].entry == rows[i].entry && !rows[end].samples) ++end;
      score_prompt(plan, rows.subspan(i, end - i), first, logits);
    }
    i = end;
  }
  if (!samples) return;
  const std::span<const SampledToken> tokens = sampler_->sample(logits, sampler_rows_);
  const Clock::time_point now = Clock::now();
  for (const OutputRow& row : rows) {
    if (!row.samples) continue;
    const SampledToken& token = tokens[static_cast<size_t>(row.row - first)];
    report(plan, row.entry, [&](EngineRequest& request, StepResult& result) {
      result.token = token.id;
      ++counts_.generated_tokens;
      return request.report_token(token, now);
    });
  }
}

void Engine::score_prompt(const StepPlan& plan, std::span<const OutputRow> rows, int64_t first,
                          const Tensor& logits) {
  const GenerationRequest& request = step_requests_[rows.front().entry]->request();
  prompt_ids_.clear();
  for (const OutputRow& row : rows) {
    prompt_ids_.push_back(request.prompt[static_cast<size_t>(row.position + 1)]);
  }
  const Tensor of_prompt = logits.slice(0, rows.front().row - first, rows.back().row + 1 - first);
  const std::span<const SampledToken> tokens =
      sampler_->score(of_prompt, prompt_ids_, request.prompt_alternatives);
  report(plan, rows.front().entry,
         [&](EngineRequest& reported, StepResult&) -> std::optional<FinishReason> {
           reported.report_prompt(tokens);
           return std::nullopt;
         });
}

template <typename Report>
void Engine::report(const StepPlan& plan, size_t entry, const Report& report) {
  StepResult& result = results_[entry];
  if (result.kind != StepResult::Kind::kComputed) return;
  GenerationEnd end;
  try {
    const std::optional<FinishReason> reason = report(*step_requests_[entry], result);
    if (!reason) return;
    result.kind = StepResult::Kind::kEnded;
    end.reason = *reason;
  } catch (const std::exception& error) {
    result.kind = StepResult::Kind::kDiscarded;
    end.reason = FinishReason::kFailed;
    end.failure = FailureKind::kRequest;
    end.error = error.what();
  }
  result.token.reset();
  const ScheduledSequence& sequence = *plan.work[entry].sequence;
  end.cached_prompt_tokens = sequence.cached_prompt_tokens;
  end.preemptions = sequence.preemptions;
  ends_.emplace_back(sequence.id, std::move(end));
}

void Engine::commit() {
  scheduler_->commit(results_, Clock::now());
  for (auto& [id, ended] : ends_) end(id, std::move(ended));
  ends_.clear();
}

void Engine::end(const EndedRequest& ended) {
  end(ended.id, {.reason = ended.reason,
                 .failure = ended.failure,
                 .error = ended.error,
                 .delta = {},
                 .stop_sequence = {},
                 .cached_prompt_tokens = ended.cached_prompt_tokens,
                 .preemptions = ended.preemptions});
}

void Engine::end(RequestId id, GenerationEnd end) {
  const auto it = requests_.find(id);
  it->second->report_end(std::move(end), Clock::now());
  requests_.erase(it);
  const std::lock_guard lock(mutex_);
  --in_flight_;
}

// Of all that were accepted, also those that have not been looked at.
void Engine::end_all(FinishReason reason, FailureKind failure, const std::string& error) {
  ends_.clear();
  for (EndedRequest& ended : scheduler_->end_all()) {
    ended.reason = reason;
    ended.failure = failure;
    ended.error = error;
    end(ended);
  }
}

void Engine::publish(bool with_lists) {
  const SchedulerStats scheduler = scheduler_->stats();
  counts_.waiting = scheduler.waiting;
  counts_.running = scheduler.running;
  counts_.kv_blocks = plan_.scheduler.blocks;
  counts_.kv_blocks_used = scheduler.blocks_used;
  counts_.kv_blocks_cached = scheduler.blocks_cached;
  counts_.preemptions = scheduler.preemptions;
  counts_.prefix_tokens_queried = scheduler.prefix_tokens_queried;
  counts_.prefix_tokens_hit = scheduler.prefix_tokens_hit;
  const Clock::time_point now = Clock::now();
  with_lists |= now - listed_at_ >= kListAge;
  std::vector<std::string> running;
  std::vector<std::string> waiting;
  if (with_lists) {
    listed_at_ = now;
    scheduler_->list_adapters(running, waiting);
  }
  const std::lock_guard lock(mutex_);
  if (!with_lists) {
    std::swap(running, stats_.running_adapters);
    std::swap(waiting, stats_.waiting_adapters);
  }
  stats_ = counts_;
  stats_.running_adapters = std::move(running);
  stats_.waiting_adapters = std::move(waiting);
}

}  // namespace lorax
