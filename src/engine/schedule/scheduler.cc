#include "engine/schedule/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string_view>
#include <unordered_set>

#include "base/check.h"
#include "engine/schedule/activation.h"

namespace lorax {
namespace {

std::pair<int64_t, int64_t> standing_of(const ScheduledSequence& sequence) {
  return {sequence.client->running_in_flow(), sequence.client->running()};
}

// Each name once: clients of several flows may use one adapter.
template <typename Clients>
void list_names(const Clients& clients, std::vector<std::string>& names) {
  std::unordered_set<std::string_view> seen = {""};
  for (const FairQueue::Client* client : clients) {
    if (seen.insert(client->name()).second) names.push_back(client->name());
  }
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, AdapterExchange& adapters)
    : options_(options), allocator_(options.blocks), line_(adapters, queue_, options.adapters) {
  LORAX_CHECK(options.max_running >= 1 && options.step_tokens >= options.max_running);
  if (options.prefix_cache) cache_.emplace(allocator_, options.block_size);
}

Scheduler::~Scheduler() = default;

// --- Requests come and go --------------------------------------------------------------------

void Scheduler::submit(ScheduledRequest request, Time now) {
  LORAX_CHECK(request.id > last_id_ && !request.prompt.empty() && request.max_new_tokens >= 1);
  last_id_ = request.id;
  const int64_t prompt_length = static_cast<int64_t>(request.prompt.size());
  // The last token's keys and values are never needed.
  const int64_t need = pages_for(prompt_length + request.max_new_tokens - 1, options_.block_size);
  if (need > options_.blocks) {
    rejected_.push_back({.id = request.id,
                         .failure = FailureKind::kRequest,
                         .error = fmt::format(
                             "the request may need {} pages of {} tokens and there are {}: shorten "
                             "the prompt or generate less",
                             need, options_.block_size, options_.blocks)});
    return;
  }
  auto sequence = std::make_unique<Sequence>(allocator_);
  sequence->id = request.id;
  sequence->client = &queue_.client(request.adapter, request.flow);
  sequence->tokens = std::move(request.prompt);
  sequence->prompt_length = prompt_length;
  sequence->max_new_tokens = request.max_new_tokens;
  sequence->reuse_prefix = request.reuse_prefix;
  sequence->cache_scope = std::move(request.cache_scope);
  sequence->deadline = request.deadline;
  enter(std::move(sequence), now);
}

// With all books as they were if memory runs out in it.
void Scheduler::enter(std::unique_ptr<Sequence> sequence, Time now) {
  const RequestId id = sequence->id;
  const Time deadline = sequence->deadline;
  FairQueue::Client& client = *sequence->client;
  try {
    sequences_.emplace(id, std::move(sequence));
    if (deadline != Time::max()) deadlines_.emplace(deadline, id);
    queue_.push(client, id);
    line_.update(client, now, last_id_);
  } catch (...) {
    if (client.waiting().contains(id)) queue_.remove(client, id);
    deadlines_.erase({deadline, id});
    sequences_.erase(id);
    update(client, now);
    throw;
  }
}

std::optional<EndedRequest> Scheduler::cancel(RequestId id, Time now) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end()) return std::nullopt;
  return end_and_update(*it->second, FinishReason::kCancelled, now);
}

std::vector<EndedRequest> Scheduler::end_all() {
  for (StepPlan* plan : in_steps_) *plan = {};
  in_steps_.clear();
  advanced_ = false;
  ended_.clear();
  std::vector<EndedRequest> ended = std::exchange(rejected_, {});
  std::vector<RequestId> ids;
  std::set<FairQueue::Client*> clients;
  for (const auto& [id, sequence] : sequences_) {
    sequence->steps = 0;
    ids.push_back(id);
    if (sequence->client != nullptr) clients.insert(sequence->client);
  }
  std::ranges::sort(ids);
  for (RequestId id : ids) ended.push_back(end(*sequences_.at(id), FinishReason::kCancelled));
  for (FairQueue::Client* client : clients) update(*client, {});
  return ended;
}

EndedRequest Scheduler::end(Sequence& sequence, FinishReason reason) {
  EndedRequest ended = {.id = sequence.id,
                        .reason = reason,
                        .error = {},
                        .cached_prompt_tokens = sequence.cached_prompt_tokens,
                        .preemptions = sequence.preemptions};
  FairQueue::Client* client = sequence.client;
  if (client == nullptr) {
    std::erase(finishing_, &sequence);
  } else if (client->waiting().contains(sequence.id)) {
    queue_.remove(*client, sequence.id);
    client->resumable -= sequence.admitted ? 1 : 0;
  } else {
    leave_running(sequence);
  }
  if (sequence.deadline != Time::max()) deadlines_.erase({sequence.deadline, sequence.id});
  sequence.ended = true;
  sequence.client = nullptr;
  auto taken = sequences_.extract(sequence.id);
  if (sequence.steps > 0) ended_.push_back(std::move(taken.mapped()));
  return ended;
}

EndedRequest Scheduler::end_and_update(Sequence& sequence, FinishReason reason, Time now) {
  FairQueue::Client* client = sequence.client;
  EndedRequest ended = end(sequence, reason);
  if (client != nullptr) update(*client, now);
  return ended;
}

bool Scheduler::is_running(const Sequence& sequence) const {
  return std::ranges::binary_search(running_, sequence.id, {}, id_of);
}

void Scheduler::leave_running(Sequence& sequence) {
  queue_.stop(*sequence.client);
  running_.erase(std::ranges::find(running_, &sequence));
}

// The client may be gone afterwards.
void Scheduler::update(FairQueue::Client& client, Time now) {
  line_.update(client, now, last_id_);
  queue_.rest(client);
}

void Scheduler::expire(Time now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    Sequence& sequence = *sequences_.at(deadlines_.begin()->second);
    plan_->ended.push_back(end_and_update(sequence, FinishReason::kTimedOut, now));
  }
}

void Scheduler::fail_adapter(FairQueue::Client& client, RequestId last,
                             const std::string& message) {
  const std::vector<RequestId> waiting(client.waiting().begin(), client.waiting().end());
  for (RequestId id : waiting) {
    Sequence& sequence = *sequences_.at(id);
    if (id > last || sequence.admitted) continue;
    EndedRequest& ended = plan_->ended.emplace_back(end(sequence, FinishReason::kFailed));
    ended.failure = FailureKind::kAdapter;
    ended.error = message;
  }
}

// --- A step ----------------------------------------------------------------------------------

const StepPlan& Scheduler::schedule(Time now) {
  LORAX_CHECK(in_steps_.size() < plans_.size());
  if (!in_steps_.empty()) {
    advance(*in_steps_.front(), now);
    plan_ = in_steps_.front() == &plans_[0] ? &plans_[1] : &plans_[0];
  }
  plan_->work.clear();
  plan_->tokens = 0;
  plan_->ended = std::exchange(rejected_, {});
  expire(now);
  line_.poll(now, last_id_, [&](FairQueue::Client& client, RequestId last, const auto& message) {
    fail_adapter(client, last, message);
    update(client, now);
  });
  yield_slot();
  if (!plan_newcomers(now)) {
    grow_decodes();
    plan_decodes();
    plan_prefills(now);
  }
  if (!plan_->work.empty()) in_steps_.push_back(plan_);
  return *plan_;
}

// To where sequences stand once `plan` is done, though its tokens are not known.
void Scheduler::advance(const StepPlan& plan, Time now) {
  if (std::exchange(advanced_, true)) return;
  for (const StepWork& work : plan.work) {
    if (work.sequence->ended) continue;
    Sequence& sequence = *sequences_.at(work.sequence->id);
    sequence.cached += work.tokens;
    if (!work.samples) continue;
    sequence.tokens.push_back(kUnknownToken);
    if (!sequence.is_complete()) continue;
    leave_running(sequence);
    FairQueue::Client& client = *std::exchange(sequence.client, nullptr);
    finishing_.push_back(&sequence);
    update(client, now);
  }
}

// All places are taken, and an adapter has none whose turn it is: it gets one from those that have
// several, else a flood of long requests would hold it up until one of them ends.
void Scheduler::yield_slot() {
  if (static_cast<int64_t>(running_.size()) < options_.max_running) return;
  const FairQueue::Client* next = queue_.first_ready();
  if (next == nullptr || next->running() > 0) return;
  Sequence* sequence = victim(/*at_least=*/2);
  if (sequence == nullptr || !FairQueue::Before()(next, sequence->client)) return;
  const FairQueue::Client& holder = *sequence->client;
  const bool has_more = holder.is_of_flow_of(*next)
                            ? holder.running() > 1
                            : holder.running_in_flow() > next->running_in_flow() + 1;
  if (has_more) preempt(*sequence);
}

// A step for prompts of adapters that have nothing running, if it is their turn, and a crowd would
// hold them up: with as many rows as the crowd's at most, and never twice in a row.
bool Scheduler::plan_newcomers(Time now) {
  const bool crowd_has_waited = std::exchange(was_newcomers_, false);
  if (options_.crowd == 0 || crowd_has_waited) return false;
  const int64_t crowd = std::ranges::count_if(
      running_, [](const Sequence* sequence) { return sequence->pending() == 1; });
  if (crowd < options_.crowd) return false;
  while (plan_->tokens < crowd) {
    FairQueue::Client* next = queue_.first_ready();
    if (next == nullptr || next->running() > 0) break;
    if (!admit(*next, crowd, /*whole=*/true, now)) break;
  }
  was_newcomers_ = !plan_->work.empty();
  return was_newcomers_;
}

// A page for the next token of each sequence that generates, the oldest first.
void Scheduler::grow_decodes() {
  growing_ = running_;
  for (Sequence* sequence : growing_) {
    const auto decodes = [&] { return sequence->pending() == 1 && is_running(*sequence); };
    while (decodes() && !grow(*sequence)) preempt(*victim(/*at_least=*/1));
  }
}

void Scheduler::plan_decodes() {
  for (Sequence* sequence : running_) {
    if (sequence->pending() == 1) plan(*sequence, 1);
  }
}

// What is left of the budget goes to prompts that have begun and to the next ones in the queue, in
// the order of fairness. Where the next one does not fit, it keeps those behind it waiting: it will
// fit once others have ended.
void Scheduler::plan_prefills(Time now) {
  partial_.clear();
  for (Sequence* sequence : running_) {
    if (sequence->pending() > 1) partial_.push_back(sequence);
  }
  bool full = false;
  while (plan_->tokens < options_.step_tokens) {
    FairQueue::Client* next = full ? nullptr : queue_.first_ready();
    const auto first = std::ranges::min_element(partial_, FairQueue::Before(),
                                                [](const Sequence* s) { return s->client; });
    if (first != partial_.end() &&
        (next == nullptr || !FairQueue::Before()(next, (*first)->client))) {
      plan(**first, std::min((*first)->pending(), options_.step_tokens - plan_->tokens));
      partial_.erase(first);
    } else if (next != nullptr) {
      full = !admit(*next, options_.step_tokens, !options_.chunked_prefill, now);
    } else {
      return;
    }
  }
}

bool Scheduler::admit(FairQueue::Client& client, int64_t rows, bool whole, Time now) {
  if (static_cast<int64_t>(running_.size()) >= options_.max_running) return false;
  Sequence& sequence = *sequences_.at(*client.waiting().begin());
  if (!sequence.admitted) {
    sequence.adapter = line_.lease(client);
    enter_name_space(sequence);
  }
  const int64_t budget = rows - plan_->tokens;
  if (!take_pages(sequence) || (whole && sequence.pending() > budget)) {
    sequence.blocks.clear();
    sequence.cached = 0;
    sequence.registered = 0;
    if (!sequence.admitted) sequence.adapter = nullptr;
    return false;
  }
  queue_.remove(client, sequence.id);
  queue_.start(client);
  running_.insert(std::ranges::lower_bound(running_, sequence.id, {}, id_of), &sequence);
  if (sequence.admitted) {
    --client.resumable;
  } else {
    sequence.admitted = true;
    sequence.cached_prompt_tokens = sequence.cached;
    if (cache_ && sequence.reuse_prefix) {
      counts_.prefix_tokens_queried += static_cast<uint64_t>(sequence.prompt_length);
      counts_.prefix_tokens_hit += static_cast<uint64_t>(sequence.cached);
    }
  }
  line_.update(client, now, last_id_);
  plan(sequence, std::min(sequence.pending(), budget));
  return true;
}

// Pages for all its tokens, those of the prefix cache first, unless that leaves less than a page
// for each running sequence to grow into. If false, it may hold some.
bool Scheduler::take_pages(Sequence& sequence) {
  if (cache_ && sequence.reuse_prefix) {
    sequence.cached =
        cache_->match(sequence.name_space, sequence.tokens, sequence.blocks, sequence.stem);
    sequence.registered = sequence.blocks.size();
  }
  const int64_t need = pages_for(sequence.length(), options_.block_size) - sequence.blocks.size();
  const int64_t reserve = static_cast<int64_t>(running_.size());
  if (need + reserve > allocator_.free() + allocator_.idle()) return false;
  return grow(sequence);
}

// A name space is that of an adapter's content and of a scope. What comes before an aLoRA's
// invocation is the base's; what comes behind is a matter of where that stands, too.
void Scheduler::enter_name_space(Sequence& sequence) {
  // No digest holds a line feed or "@".
  const std::string scope = sequence.cache_scope.empty() ? "" : '\n' + sequence.cache_scope;
  sequence.name_space = scope;
  if (sequence.adapter == nullptr) return;
  const std::span<const int32_t> invocation = sequence.adapter->invocation();
  sequence.adapter_from = activation_of(
      std::span(sequence.tokens).first(static_cast<size_t>(sequence.prompt_length)), invocation);
  if (sequence.adapter_from == kNeverActive) return;
  const std::string& digest = sequence.adapter->digest();
  if (invocation.empty()) {
    sequence.name_space = digest + scope;
  } else {
    sequence.name_space = fmt::format("{}@{}{}", digest, sequence.adapter_from, scope);
    sequence.stem = {.name_space = scope, .tokens = sequence.adapter_from};
  }
}

void Scheduler::plan(Sequence& sequence, int64_t tokens) {
  const bool samples = tokens == sequence.pending();
  plan_->work.push_back({&sequence, sequence.cached, tokens, samples, sequence.preemptions});
  plan_->tokens += tokens;
  ++sequence.steps;
  const int64_t end = sequence.cached + tokens;
  // The client has paid for a generated token when it was sampled.
  const int64_t prompt_end = std::min(end, sequence.prompt_length);
  const int64_t computed =
      std::max<int64_t>(0, prompt_end - std::max(sequence.cached, sequence.charged));
  sequence.charged = std::max(sequence.charged, prompt_end);
  queue_.charge(*sequence.client,
                options_.input_weight * computed + (samples ? options_.output_weight : 0));
}

void Scheduler::commit(std::span<const StepResult> results, Time now) {
  LORAX_CHECK(!in_steps_.empty() && results.size() == in_steps_.front()->work.size());
  const StepPlan& plan = *in_steps_.front();
  advance(plan, now);
  for (size_t i = 0; i < results.size(); ++i) commit(plan.work[i], results[i], now);
  std::erase_if(ended_, [](const auto& sequence) { return sequence->steps == 0; });
  in_steps_.erase(in_steps_.begin());
  advanced_ = false;
}

void Scheduler::commit(const StepWork& work, const StepResult& result, Time now) {
  if (work.sequence->ended) {
    const auto it = std::ranges::find(ended_, work.sequence, &std::unique_ptr<Sequence>::get);
    --(*it)->steps;
    return;
  }
  Sequence& sequence = *sequences_.at(work.sequence->id);
  --sequence.steps;
  // After a preemption these pages are others'.
  const bool stands = work.preemptions == sequence.preemptions;
  if (cache_ && stands && result.kind != StepResult::Kind::kDiscarded) {
    const auto computed =
        std::span(sequence.tokens).first(static_cast<size_t>(work.begin + work.tokens));
    sequence.registered = cache_->insert(sequence.name_space, computed, sequence.registered,
                                         sequence.blocks, sequence.stem);
  }
  if (result.kind == StepResult::Kind::kComputed) {
    LORAX_CHECK(result.token.has_value() == work.samples);
    LORAX_CHECK(!work.samples || !sequence.is_complete(), "a request with all its tokens goes on");
    if (result.token) sequence.tokens.back() = *result.token;
  } else {
    end_and_update(sequence, FinishReason::kLength, now);
  }
}

// --- Pages -----------------------------------------------------------------------------------

bool Scheduler::make_free() { return allocator_.free() > 0 || (cache_ && cache_->evict()); }

// Pages up to the sequence's last token.
bool Scheduler::grow(Sequence& sequence) {
  const int64_t need = pages_for(sequence.length(), options_.block_size);
  while (sequence.blocks.size() < need) {
    if (!make_free()) return false;
    sequence.blocks.grow();
  }
  return true;
}

// The youngest sequence of the client that has most of them running, of the flow that has: none is
// made to pay for the flood of another. Null if all flows have fewer than `at_least`.
Scheduler::Sequence* Scheduler::victim(int64_t at_least) const {
  Sequence* found = nullptr;
  for (auto it = running_.rbegin(); it != running_.rend(); ++it) {
    if ((*it)->client->running_in_flow() < at_least) continue;
    if (found == nullptr || standing_of(**it) > standing_of(*found)) found = *it;
  }
  return found;
}

void Scheduler::preempt(Sequence& sequence) {
  leave_running(sequence);
  sequence.blocks.clear();
  sequence.cached = 0;
  sequence.registered = 0;
  ++sequence.preemptions;
  ++counts_.preemptions;
  ++sequence.client->resumable;
  queue_.push(*sequence.client, sequence.id);
  queue_.set_ready(*sequence.client, true);
}

// --- What others may know --------------------------------------------------------------------

Scheduler::Time Scheduler::next_event(Time now) const {
  if (sequences_.empty()) return rejected_.empty() ? Time::max() : now;
  // Adapters that load slowly are looked at now and then.
  const Time look = now + options_.adapters.slow_after;
  return deadlines_.empty() ? look : std::min(look, deadlines_.begin()->first);
}

std::vector<const ScheduledSequence*> Scheduler::leaving() const {
  std::vector<const ScheduledSequence*> leaving(finishing_.begin(), finishing_.end());
  for (const auto& sequence : ended_) leaving.push_back(sequence.get());
  return leaving;
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = counts_;
  stats.waiting = queue_.waiting_requests();
  stats.running = static_cast<int64_t>(running_.size() + finishing_.size());
  stats.blocks_used = allocator_.in_use();
  stats.blocks_cached = allocator_.idle();
  return stats;
}

void Scheduler::list_adapters(std::vector<std::string>& running,
                              std::vector<std::string>& waiting) const {
  std::set<const FairQueue::Client*, FairQueue::ByNumber> clients;
  for (const Sequence* sequence : running_) clients.insert(sequence->client);
  list_names(clients, running);
  list_names(queue_.waiting(), waiting);
}

}  // namespace lorax
