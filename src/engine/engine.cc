#include "engine/engine.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "base/error.h"
#include "base/out_of_memory.h"
#include "base/threads.h"
#include "engine/run/warm_up.h"

namespace lorax {
namespace {

// How old the lists of adapters in stats() may be while steps run.
constexpr std::chrono::milliseconds kListAge{50};
// Requests whose places in the inbox are made at the start.
constexpr size_t kReserved = 4096;

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

StepReport Engine::report_of(const StepPlan& plan) {
  StepReport report;
  report.is_prefill = plan.tokens > std::ssize(plan.work);
  report.sequences = std::ssize(plan.work);
  report.tokens = plan.tokens;
  return report;
}

Engine::Engine(LoadedModel& model, const Tokenizer* tokenizer, EngineOptions options)
    : model_(model),
      tokenizer_(tokenizer),
      on_step_(options.on_step),
      on_failed_(options.on_failed),
      on_warning_(options.on_warning) {
  check_options(options);
  Device& device = model.device();
  const std::vector<AdapterModule>& modules = model.model().adapter_modules();
  tables_ = std::make_unique<AdapterTables>(device, static_cast<int64_t>(modules.size()),
                                            options.adapter_slots, model.dtype());
  backend_ = std::make_unique<ModelAdapterBackend>(device, modules, *tables_, options.base_name,
                                                   options.on_warning, options.adapter_bounds,
                                                   options.ignored_adapter_config_keys);
  plan_ = plan_engine(model, options);
  plan_memory(plan_, model, options);
  const bool with_adapters = plan_.serves_adapters();
  if (with_adapters && options.adapter_bytes && !plan_.store.unified_memory) {
    backend_->take_device_memory(plan_.memory.adapters);
  }
  places_ = std::make_unique<FairPlaces>(plan_.places);
  const auto places = static_cast<size_t>(plan_.places.places);
  requests_.reserve(places);  // all of them: accept() needs no memory for one more
  for (std::vector<Submission>* list : {&inbox_, &taken_}) {
    list->reserve(std::min(places, kReserved));
  }
  for (std::vector<RequestId>* list : {&cancelled_, &taken_cancels_}) {
    list->reserve(2 * std::min(places, kReserved));
  }
  ends_.reserve(static_cast<size_t>(plan_.scheduler.max_running));
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
  steps_ = std::make_unique<StepRunner>(*runner_, options.measures_device);
  const Clock::time_point start = Clock::now();
  warm_up(*runner_, steps_->sampler(), with_adapters);
  warm_up_seconds_ = std::chrono::duration<double>(Clock::now() - start).count();
  publish(/*with_lists=*/true);
  thread_ = start_thread("the engine", [this] { run(); });
}

Engine::~Engine() { stop(std::chrono::milliseconds(0)); }

// --- Other threads ---------------------------------------------------------------------------

GenerationService::Submitted Engine::submit(GenerationRequest request,
                                            std::shared_ptr<GenerationSink> sink) {
  const Clock::time_point now = Clock::now();
  const std::string adapter = request.adapter;
  Submission submission;
  {
    Requests made;
    made.emplace(0, std::make_unique<EngineRequest>(std::move(request), std::move(sink), now));
    submission.request = made.extract(made.begin());
  }
  const std::string& flow = submission.request.mapped()->places_flow();
  const std::lock_guard lock(mutex_);
  if (stopping_ || !healthy_) return {.admission = Admission::kStopping};
  if (inbox_.size() == inbox_.capacity()) inbox_.reserve(2 * inbox_.size() + 1);
  if (const FairPlaces::Answer place = places_->take(flow, now); !place.taken) {
    return {.admission = Admission::kOverloaded, .retry_after = place.retry_after};
  }
  const RequestId id = submission.request.key() = ++last_id_;
  // More than a few would only push each other's adapters out: their turn may come much later.
  if (!adapter.empty() && places_->used() <= plan_.scheduler.max_running &&
      std::ssize(inbox_) < plan_.scheduler.adapters.ahead) {
    try {
      submission.ahead = store_->request_ahead(adapter);
    } catch (const std::bad_alloc&) {  // it is but a hint
    }
  }
  inbox_.push_back(std::move(submission));
  wake_.notify_one();
  return {.admission = Admission::kAccepted, .id = id};
}

void Engine::cancel(RequestId id) noexcept {
  const std::lock_guard lock(mutex_);
  try {
    cancelled_.push_back(id);
  } catch (const std::bad_alloc&) {  // it goes on to its end
  }
  wake_.notify_one();
}

ServiceStats Engine::stats() const {
  const std::lock_guard lock(mutex_);
  ServiceStats stats = stats_;
  stats.waiting += static_cast<int64_t>(inbox_.size());
  return stats;
}

std::chrono::nanoseconds Engine::busy_for() const {
  const Clock::rep began = turn_began_;
  if (began == 0) return std::chrono::nanoseconds(0);
  return Clock::now() - Clock::time_point(Clock::duration(began));
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

void Engine::run() noexcept {
  while (wait_for_work()) {
    try {
      turn();
    } catch (...) {
      recover(std::current_exception());
    }
  }
  try {
    take_inbox();
  } catch (...) {
    recover(std::current_exception());
  }
  settle_device();
  if (healthy_) end_all(FinishReason::kCancelled, FailureKind::kNone, "");
  publish(/*with_lists=*/true);
  turn_began_ = 0;
}

void Engine::turn() {
  take_inbox();
  if (!healthy_) return;  // there is nothing in the scheduler, or it cannot be trusted
  const StepPlan& plan = scheduler_->schedule(Clock::now());
  asked_ahead_.clear();
  for (const EndedRequest& ended : plan.ended) end(ended);
  busy_ = step(plan);
  publish(/*with_lists=*/!busy_);
}

// Sleeps while there is nothing to do, then takes what has come. False once the engine is to end.
bool Engine::wait_for_work() {
  std::unique_lock lock(mutex_);
  bool ends = false;
  while (true) {
    const Clock::time_point now = Clock::now();
    const bool has_requests = (healthy_ && !scheduler_->idle()) || !inbox_.empty();
    ends = stopping_ && (!has_requests || now >= stop_at_);
    if (ends || busy_ || woken_ || !inbox_.empty() || !cancelled_.empty()) break;
    const Clock::time_point event =
        healthy_ ? scheduler_->next_event(now) : Clock::time_point::max();
    if (event <= now) break;
    turn_began_ = 0;
    const Clock::time_point until = stopping_ ? std::min(event, stop_at_) : event;
    if (until == Clock::time_point::max()) {
      wake_.wait(lock);
    } else if (wake_.wait_until(lock, until) == std::cv_status::timeout && until == event) {
      break;
    }
  }
  turn_began_ = Clock::now().time_since_epoch().count();
  woken_ = false;
  std::swap(inbox_, taken_);
  std::swap(cancelled_, taken_cancels_);
  return !ends;
}

void Engine::take_inbox() {
  for (Submission& submission : taken_) accept(std::move(submission));
  taken_.clear();
  for (RequestId id : taken_cancels_) {
    if (!healthy_) break;
    if (const auto ended = scheduler_->cancel(id, Clock::now())) end(*ended);
  }
  taken_cancels_.clear();
}

void Engine::accept(Submission submission) noexcept {
  const RequestId id = submission.request.key();
  EngineRequest& entry = *requests_.insert(std::move(submission.request)).position->second;
  GenerationEnd failed;
  failed.reason = FinishReason::kFailed;
  failed.failure = healthy_ ? FailureKind::kRequest : FailureKind::kService;
  try {
    const GenerationRequest& request = entry.request();
    failed.error =
        healthy_ ? fault_of(request, plan_.limits, runner_->vocab_size()) : "the engine has failed";
    if (!failed.error.empty()) return end(id, std::move(failed));
    ScheduledRequest scheduled = {.id = id,
                                  .adapter = request.adapter,
                                  .flow = request.flow,
                                  .cache_scope = request.cache_scope,
                                  .prompt = request.prompt,
                                  .max_new_tokens = request.max_new_tokens,
                                  .reuse_prefix = !request.prompt_logprobs,
                                  .deadline = request.deadline};
    entry.begin(tokenizer_);
    if (submission.ahead) asked_ahead_.push_back(std::move(submission.ahead));
    scheduler_->submit(std::move(scheduled), Clock::now());
  } catch (...) {
    failed.failure = FailureKind::kMemory;
    failed.error.clear();
    end(id, std::move(failed));
  }
}

// Schedule, forward, sample, commit: where steps overlap, the commit of the step before stands
// between forward and sample, which needs its tokens for penalties.
bool Engine::step(const StepPlan& plan) {
  const StepPlan* const before = std::exchange(sampled_, nullptr);
  const bool has_work = !plan.work.empty();
  try {
    if (has_work) forward(plan);
    if (before != nullptr) commit(*before);
    if (has_work) steps_->sample();
    if (has_work && !plan_.overlap) commit(plan);
    if (has_work && plan_.overlap) sampled_ = &plan;
  } catch (...) {
    recover_from_step(has_work ? plan : *before, std::current_exception());
  }
  return has_work || before != nullptr;
}

void Engine::forward(const StepPlan& plan) {
  const Clock::time_point now = Clock::now();
  step_requests_.clear();
  for (const StepWork& work : plan.work) {
    EngineRequest& request = *requests_.at(work.sequence->id);
    step_requests_.push_back(&request);
    if (!request.note_step(now)) continue;
    counts_.prompt_tokens += static_cast<uint64_t>(work.sequence->prompt_length);
  }
  steps_->forward(plan, step_requests_, /*follows=*/busy_);
}

void Engine::commit(const StepPlan& plan) {
  results_.assign(plan.work.size(), {});
  StepReport done = report_of(plan);
  done.times = steps_->collect(
      [&](size_t entry, EngineRequest& request, bool is_next,
          std::span<const SampledToken> tokens) { report(plan, entry, request, is_next, tokens); });
  scheduler_->commit(results_, Clock::now());
  for (auto& [id, ended] : ends_) end(id, std::move(ended));
  ends_.clear();
  ++counts_.steps;
  counts_.step_tokens = plan.tokens;
  const Clock::time_point now = Clock::now();
  done.time = counts_.step_time = now - (done.times.follows ? step_ended_ : done.times.asked);
  step_ended_ = now;
  on_step_(done);
}

void Engine::report(const StepPlan& plan, size_t entry, EngineRequest& request, bool is_next,
                    std::span<const SampledToken> tokens) {
  StepResult& result = results_[entry];
  if (result.kind != StepResult::Kind::kComputed) return;
  GenerationEnd end;
  try {
    if (!is_next) return request.report_prompt(tokens);
    const SampledToken& token = tokens.front();
    result.token = token.id;
    ++counts_.generated_tokens;
    const std::optional<FinishReason> reason = request.report_token(token, Clock::now());
    if (!reason) return;
    result.kind = StepResult::Kind::kEnded;
    end.reason = *reason;
  } catch (...) {
    const std::exception_ptr error = std::current_exception();
    result.kind = StepResult::Kind::kDiscarded;
    end.reason = FinishReason::kFailed;
    end.failure = is_out_of_memory(error) ? FailureKind::kMemory : FailureKind::kRequest;
    if (end.failure != FailureKind::kMemory) end.error = message_of(error);
  }
  result.token.reset();
  const ScheduledSequence& sequence = *plan.work[entry].sequence;
  end.cached_prompt_tokens = sequence.cached_prompt_tokens;
  end.preemptions = sequence.preemptions;
  ends_.emplace_back(sequence.id, std::move(end));
}

void Engine::end(const EndedRequest& ended) noexcept {
  GenerationEnd end;
  end.reason = ended.reason;
  end.failure = ended.failure;
  try {
    end.error = ended.error;
  } catch (const std::bad_alloc&) {
    end.failure = FailureKind::kMemory;
  }
  end.cached_prompt_tokens = ended.cached_prompt_tokens;
  end.preemptions = ended.preemptions;
  this->end(ended.id, std::move(end));
}

void Engine::end(RequestId id, GenerationEnd end) noexcept {
  const auto it = requests_.find(id);
  const Clock::time_point now = Clock::now();
  it->second->report_end(std::move(end), now);
  const Requests::node_type ended = requests_.extract(it);
  const std::lock_guard lock(mutex_);
  places_->give_back(ended.mapped()->places_flow(), now);
}

// Without memory what was published last stays.
void Engine::publish(bool with_lists) noexcept {
  try {
    publish_stats(with_lists);
  } catch (...) {
  }
}

void Engine::publish_stats(bool with_lists) {
  const SchedulerStats scheduler = scheduler_ != nullptr ? scheduler_->stats() : SchedulerStats{};
  counts_.waiting = scheduler.waiting;
  counts_.running = scheduler.running;
  counts_.kv_blocks = plan_.scheduler.blocks;
  counts_.kv_blocks_used = scheduler.blocks_used;
  counts_.kv_blocks_cached = scheduler.blocks_cached;
  counts_.preemptions = before_.preemptions + scheduler.preemptions;
  counts_.prefix_tokens_queried = before_.prefix_tokens_queried + scheduler.prefix_tokens_queried;
  counts_.prefix_tokens_hit = before_.prefix_tokens_hit + scheduler.prefix_tokens_hit;
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
