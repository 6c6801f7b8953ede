#include "server/api/response_task.h"

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

#include <fmt/format.h>

#include "server/http/sse.h"

namespace lorax {
namespace {

class TaskSink final : public GenerationSink {
 public:
  TaskSink(std::shared_ptr<ResponseTask> task, size_t index)
      : task_(std::move(task)), index_(index) {}

  void on_prompt(std::vector<TokenInfo> tokens) override {
    task_->take_prompt(index_, std::move(tokens));
  }
  void on_token(GeneratedToken token) override { task_->take_token(index_, std::move(token)); }
  void on_end(GenerationEnd end) override { task_->take_end(index_, std::move(end)); }

 private:
  std::shared_ptr<ResponseTask> task_;
  size_t index_;
};

// Tokens and alternatives that are written in well under a millisecond.
constexpr size_t kSmallResponse = 512;

size_t size_of(const std::vector<TokenInfo>& tokens) {
  size_t size = 0;
  for (const TokenInfo& token : tokens) size += 1 + token.alternatives.size();
  return size;
}

size_t size_of(const std::vector<Generation>& generations) {
  size_t size = 0;
  for (const Generation& generation : generations) {
    size += size_of(generation.prompt);
    for (const GeneratedToken& token : generation.tokens) {
      size += 1 + token.token.alternatives.size();
    }
  }
  return size;
}

ApiError refusal_of(const GenerationService::Submitted& refused, const GenerationService& service) {
  if (refused.admission == GenerationService::Admission::kOverloaded) {
    return ApiError(ErrorKind::kOverloaded, "Model is overloaded")
        .set_retry_after(refused.retry_after);
  }
  if (!service.healthy()) return {ErrorKind::kUnhealthy, "unhealthy"};
  return {ErrorKind::kStopping, "the server is shutting down"};
}

}  // namespace

double Generation::mean_logprob() const {
  if (tokens.empty()) return -std::numeric_limits<double>::infinity();
  double sum = 0.0;
  for (const GeneratedToken& token : tokens) sum += token.token.logprob;
  return sum / static_cast<double>(tokens.size());
}

// The requests of one response, to be cancelled together. They are added before the task opens.
class ResponseTask::Cancellation {
 public:
  explicit Cancellation(GenerationService& service) : service_(service) {}

  void reserve(size_t requests) { ids_.reserve(requests); }
  void add(RequestId id) { ids_.push_back(id); }
  void cancel() const {
    for (const RequestId id : ids_) service_.cancel(id);
  }

 private:
  GenerationService& service_;
  std::vector<RequestId> ids_;
};

ResponseTask::ResponseTask(const ApiContext& context, RequestInfo info,
                           std::shared_ptr<ResponseWriter> writer)
    : service_(context.service),
      adapters_(context.adapters),
      shares_prefixes_(context.settings.shares_prefixes),
      observer_(context.observer),
      info_(std::move(info)),
      writer_(std::move(writer)),
      cancellation_(std::make_shared<Cancellation>(service_)) {
  report_.route = info_.route;
  report_.adapter = info_.adapter;
  report_.validation = info_.validation;
}

ResponseTask::~ResponseTask() = default;

void ResponseTask::start(const std::shared_ptr<ResponseTask>& task,
                         std::vector<GenerationRequest> requests) {
  try {
    task->submit(task, requests);
    task->open(requests.size());
  } catch (...) {
    task->drop();
    throw;
  }
}

void ResponseTask::submit(const std::shared_ptr<ResponseTask>& self,
                          std::vector<GenerationRequest>& requests) {
  take_places(requests);
  note_start(requests);
  cancellation_->reserve(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    observer_.on_validated(info_.validation, static_cast<int64_t>(requests[i].prompt.size()),
                           requests[i].max_new_tokens);
    const GenerationService::Submitted submitted =
        service_.submit(std::move(requests[i]), std::make_shared<TaskSink>(self, i));
    if (submitted.admission != GenerationService::Admission::kAccepted) {
      throw refusal_of(submitted, service_);
    }
    cancellation_->add(submitted.id);
  }
  writer_->on_disconnect([cancellation = cancellation_] { cancellation->cancel(); });
}

void ResponseTask::note_start(const std::vector<GenerationRequest>& requests) {
  writer_->note([&](RequestNote& note) {
    note.generates = true;
    note.adapter = info_.adapter;
    for (const GenerationRequest& request : requests) {
      note.prompt_tokens += static_cast<int64_t>(request.prompt.size());
    }
  });
}

// Before the last part of the response goes out.
void ResponseTask::note_end(const GenerationEnd& end) {
  writer_->note([&](RequestNote& note) {
    note.queue = std::max(note.queue.value_or(end.queue_time), end.queue_time);
    note.finish = name_of(end.reason);
  });
}

// What is of the tenant's: its flow and its part of the prefix cache.
void ResponseTask::take_places(std::vector<GenerationRequest>& requests) {
  const Tenant* tenant = info_.tenant.get();
  if (tenant == nullptr) return;
  const auto generations = static_cast<int64_t>(requests.size());
  const TenantLimits& limits = tenant->limits;
  if (limits.max_concurrent_requests > 0 && generations > limits.max_concurrent_requests) {
    refuse("n", fmt::format("the request asks for {} generations; this API key may have {} at once",
                            generations, limits.max_concurrent_requests));
  }
  if (const auto wait = tenant->usage->try_begin(generations, limits, Clock::now())) {
    throw ApiError(ErrorKind::kOverloaded,
                   "this API key has reached its limit of requests at once "
                   "or of tokens a minute")
        .set_retry_after(*wait);
  }
  places_ = TenantPlaces(info_.tenant, generations);
  for (GenerationRequest& request : requests) {
    spend(static_cast<int64_t>(request.prompt.size()));
    request.flow = tenant->name;
    // Its length in front: no salt of one tenant makes another's scope.
    if (shares_prefixes_) continue;
    request.cache_scope =
        fmt::format("{}:{}{}", tenant->name.size(), tenant->name, request.cache_scope);
  }
}

void ResponseTask::spend(int64_t tokens) const {
  const Tenant* tenant = info_.tenant.get();
  if (tenant != nullptr) tenant->usage->spend(tokens, tenant->limits, Clock::now());
}

template <typename Event>
void ResponseTask::deliver(Event event) noexcept {
  const std::lock_guard lock(mutex_);
  try {
    if (state_ == State::kStarting) {
      early_.emplace_back(std::move(event));
    } else if (state_ == State::kOpen) {
      event();
    }
  } catch (...) {
    break_off();
  }
}

void ResponseTask::break_off() noexcept {
  // Before it is open, start() sees to the rest.
  if (std::exchange(state_, State::kDone) == State::kStarting) return;
  places_.give_back();
  early_.clear();
  cancellation_->cancel();
  try {
    const ApiError error = no_memory_error();
    observer_.on_failure(failure_label(error.kind()));
    note_error(*writer_, error);
    writer_->note([](RequestNote& note) { note.failed = true; });
    failed(error);
  } catch (...) {
    writer_.reset();  // whose last words need no memory
  }
}

void ResponseTask::open(size_t generations) {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kDone) throw no_memory_error();
  try {
    state_ = State::kOpen;
    running_ = generations;
    last_token_.resize(generations);
    opened(generations);
    for (const std::function<void()>& event : early_) {
      if (state_ == State::kOpen) event();
    }
    early_.clear();
  } catch (...) {
    break_off();
  }
}

// Before it was opened: nothing has been answered.
void ResponseTask::drop() {
  const std::lock_guard lock(mutex_);
  state_ = State::kDone;
  places_.give_back();
  early_.clear();
  cancellation_->cancel();
}

void ResponseTask::take_prompt(size_t index, std::vector<TokenInfo> tokens) noexcept {
  deliver(
      [this, index, tokens = std::move(tokens)]() mutable { on_prompt(index, std::move(tokens)); });
}

void ResponseTask::take_token(size_t index, GeneratedToken token) noexcept {
  deliver([this, index, token = std::move(token)]() mutable {
    observe_token(index);
    spend(1);
    on_token(index, std::move(token));
  });
}

void ResponseTask::take_end(size_t index, GenerationEnd end) noexcept {
  deliver([this, index, end = std::move(end)]() mutable { finish_one(index, std::move(end)); });
}

void ResponseTask::finish_one(size_t index, GenerationEnd end) {
  note_end(end);
  if (!ended_by_itself(end)) {
    state_ = State::kDone;
    places_.give_back();
    if (running_ > 1) cancellation_->cancel();
    end.error = adapters_.without_roots(std::move(end.error));
    const ApiError error = error_of(end);
    observer_.on_failure(failure_label(error.kind()));
    note_error(*writer_, error);
    writer_->note([](RequestNote& note) { note.failed = true; });
    failed(error);
    return;
  }
  add_to_report(end);
  on_end(index, std::move(end));
  if (--running_ > 0) return;
  state_ = State::kDone;
  places_.give_back();
  report_.total = Clock::now() - info_.arrival;
  observer_.on_success(report_);
  all_ended(report_);
}

void ResponseTask::observe_token(size_t index) {
  const Clock::time_point now = Clock::now();
  Clock::time_point& last = last_token_[index];
  if (last == Clock::time_point()) {
    observer_.on_first_token(now - info_.arrival);
  } else {
    observer_.on_next_token(now - last);
  }
  last = now;
  writer_->note([&](RequestNote& note) {
    ++note.generated_tokens;
    if (!note.first_token) note.first_token = now - info_.arrival;
  });
}

void ResponseTask::add_to_report(const GenerationEnd& end) {
  report_.prompt_tokens += end.prompt_tokens;
  report_.cached_prompt_tokens += end.cached_prompt_tokens;
  report_.generated_tokens += end.generated_tokens;
  report_.queue = std::max(report_.queue, end.queue_time);
  report_.inference = std::max(report_.inference, end.prefill_time + end.decode_time);
}

void WholeResponse::on_prompt(size_t index, std::vector<TokenInfo> tokens) {
  generations_[index].prompt = std::move(tokens);
}

void WholeResponse::on_token(size_t index, GeneratedToken token) {
  Generation& generation = generations_[index];
  generation.text += token.delta;
  generation.tokens.push_back(std::move(token));
}

void WholeResponse::on_end(size_t index, GenerationEnd end) {
  Generation& generation = generations_[index];
  generation.text += end.delta;
  generation.end = std::move(end);
}

void WholeResponse::all_ended(const RequestReport& report) {
  if (size_of(generations_) <= kSmallResponse) return answer(report);
  const auto self = std::static_pointer_cast<WholeResponse>(shared_from_this());
  workers_.try_run({.flow = info().adapter,
                    .run = [self, report](Claim&) { self->answer(report); },
                    .always = true});
}

void WholeResponse::answer(const RequestReport& report) {
  try {
    writer().respond(build_(generations_, report));
  } catch (const std::bad_alloc&) {
    failed(no_memory_error());
  }
}

void WholeResponse::failed(const ApiError& error) {
  writer().respond(error_response(error, info().dialect));
}

void StreamResponse::opened(size_t) {
  writer().note([](RequestNote& note) { note.streamed = true; });
  begin_event_stream(writer(), std::move(headers_));
  write(format_->opening());
}

void StreamResponse::on_prompt(size_t index, std::vector<TokenInfo> tokens) {
  write(format_->prompt(index, std::move(tokens)));
}

void StreamResponse::on_token(size_t index, GeneratedToken token) {
  write(format_->token(index, std::move(token)));
}

void StreamResponse::on_end(size_t index, GenerationEnd end) { write(format_->end(index, end)); }

void StreamResponse::all_ended(const RequestReport& report) {
  write(format_->closing(report));
  writer().finish();
}

void StreamResponse::failed(const ApiError& error) {
  write(format_->interruption() + sse_event(error_body(error, info().dialect)));
  writer().finish();
}

void StreamResponse::write(std::string events) {
  if (!events.empty()) writer().write(std::move(events));
}

}  // namespace lorax
