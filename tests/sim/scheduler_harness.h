// Drives a scheduler without a model, and checks at every step what it promises. The pages are
// simulated: each token's place holds a hash of its adapter and of all tokens up to it, as keys and
// values do, and the next token is made of that hash. A page that is shared, kept or overwritten
// wrongly changes the text.
//
// Steps overlap if they are told to: each is planned, and its pages are written, before the results
// of the one in front of it are committed.
#pragma once

#include <algorithm>
#include <chrono>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/mix64.h"
#include "engine/schedule/scheduler.h"

namespace lorax::sim {

class SchedulerHarness {
 public:
  using Time = Scheduler::Time;

  struct Request {
    std::string adapter;
    std::vector<int32_t> prompt;
    int64_t max_new_tokens = 1;
    int64_t stops_after = 1;      // tokens; at most max_new_tokens
    int64_t discarded_after = 0;  // 0: never. Ends as a NaN would end it
    bool reuse_prefix = true;
    std::chrono::milliseconds timeout{-1};  // -1: none
  };
  struct Ended {
    Request request;
    std::vector<int32_t> generated;
    FinishReason reason = FinishReason::kLength;
    FailureKind failure = FailureKind::kNone;
    int64_t submitted_step = 0;
    int64_t first_step = -1;  // with work for it
    int64_t first_token_step = -1;
    int64_t last_token_step = -1;
    int64_t longest_gap = 0;  // steps from one token to the next
    int64_t ended_step = 0;
    int64_t preemptions = 0;
    int64_t cached_prompt_tokens = 0;  // that its first step did not compute
  };

  SchedulerHarness(const SchedulerOptions& options, AdapterExchange& adapters,
                   bool overlaps = false)
      : options_(options),
        overlaps_(overlaps),
        scheduler_(options, adapters),
        pages_(static_cast<size_t>(options.blocks * options.block_size), 0) {}

  RequestId submit(const Request& request) {
    const RequestId id = ++last_id_;
    Ended& state = live_[id];
    state.request = request;
    state.submitted_step = steps_;
    ScheduledRequest scheduled;
    scheduled.id = id;
    scheduled.adapter = request.adapter;
    scheduled.prompt = request.prompt;
    scheduled.max_new_tokens = request.max_new_tokens;
    scheduled.reuse_prefix = request.reuse_prefix;
    if (request.timeout.count() >= 0) scheduled.deadline = now_ + request.timeout;
    scheduler_.submit(std::move(scheduled), now_);
    return id;
  }

  void cancel(RequestId id) {
    const auto ended = scheduler_.cancel(id, now_);
    const auto live = live_.find(id);
    const bool is_known = live != live_.end() && can_fit(live->second.request);
    LORAX_CHECK(ended.has_value() == is_known);
    if (ended) end(*ended);
    check_pages();
  }

  void end_all() {
    computed_steps_.clear();
    for (const EndedRequest& ended : scheduler_.end_all()) end(ended);
    LORAX_CHECK(live_.empty());
    check_pages();
  }

  // One step of a millisecond. Returns whether there was work.
  bool step() {
    now_ += std::chrono::milliseconds(1);
    ++steps_;
    std::set<const ScheduledSequence*> ran(scheduler_.running().begin(),
                                           scheduler_.running().end());
    const StepPlan& plan = scheduler_.schedule(now_);
    check_room_to_grow(ran);
    for (const EndedRequest& ended : plan.ended) end(ended);
    check_plan(plan);
    // All reads before all writes would hide nothing: a step's sequences share only full pages.
    if (!plan.work.empty()) {
      std::vector<Row>& rows = computed_steps_.emplace_back();
      for (const StepWork& work : plan.work) rows.push_back(compute(work));
    }
    check_pages();
    const bool commits = computed_steps_.size() > (overlaps_ && !plan.work.empty() ? 1u : 0u);
    if (commits) commit();
    return commits || !plan.work.empty();
  }

  bool idle() const { return live_.empty() && computed_steps_.empty(); }
  // `before` comes before each step.
  template <typename Before>
  void run_until_idle(Before before) {
    for (int64_t step = 0; !idle(); ++step) {
      LORAX_CHECK(step < 200000, "starvation");
      before();
      this->step();
    }
  }
  void run_until_idle() {
    run_until_idle([] {});
  }

  // All requests have ended: nothing is held, and the figures are those that clients have seen.
  void check_at_rest() const {
    LORAX_CHECK(idle() && scheduler_.idle());
    const BlockAllocator& allocator = scheduler_.allocator();
    LORAX_CHECK(allocator.in_use() == 0 && allocator.free() + allocator.idle() == options_.blocks);
    LORAX_CHECK(options_.prefix_cache || allocator.idle() == 0);
    LORAX_CHECK(scheduler_.adapters().leases() == 0);
    LORAX_CHECK(scheduler_.leaving().empty() && scheduler_.running().empty());
    LORAX_CHECK(scheduler_.queue().waiting_requests() == 0 && scheduler_.queue().waiting().empty());
    LORAX_CHECK(scheduler_.next_event(now_) == Time::max());
    const SchedulerStats stats = scheduler_.stats();
    LORAX_CHECK(stats.waiting == 0 && stats.running == 0 && stats.blocks_used == 0);
    LORAX_CHECK(stats.blocks_cached == allocator.idle());
    uint64_t queried = 0, hit = 0, preemptions = 0;
    for (const auto& [id, ended] : ended_) {
      preemptions += static_cast<uint64_t>(ended.preemptions);
      if (ended.first_step < 0 || !options_.prefix_cache || !ended.request.reuse_prefix) continue;
      queried += ended.request.prompt.size();
      hit += static_cast<uint64_t>(ended.cached_prompt_tokens);
    }
    LORAX_CHECK(stats.prefix_tokens_queried == queried && stats.prefix_tokens_hit == hit);
    LORAX_CHECK(stats.preemptions == preemptions);
  }
  int64_t steps() const { return steps_; }
  const Scheduler& scheduler() const { return scheduler_; }
  const std::map<RequestId, Ended>& ended() const { return ended_; }
  const std::map<RequestId, Ended>& live() const { return live_; }
  // Tokens computed and generated for an adapter, weighted as the counters are.
  int64_t service(const std::string& adapter) const {
    const auto it = service_.find(adapter);
    return it == service_.end() ? 0 : it->second;
  }
  std::vector<RequestId> live_ids() const {
    std::vector<RequestId> ids;
    for (const auto& [id, state] : live_) ids.push_back(id);
    return ids;
  }

  // What follows tokens with this hash.
  static int32_t next_token(uint64_t hash) { return static_cast<int32_t>(hash % 5); }

 private:
  // What a step gave, before its results are told.
  struct Row {
    const ScheduledSequence* sequence;
    bool samples;
    int32_t token;
  };

  static uint64_t start(const std::string& digest) { return std::hash<std::string>()(digest); }
  static uint64_t extend(uint64_t hash, int32_t token) {
    return mix64(hash ^ (static_cast<uint64_t>(token) + 0x9e3779b97f4a7c15u));
  }

  // One that cannot ends with the next plan, as if it had never been there.
  bool can_fit(const Request& request) const {
    const int64_t tokens = static_cast<int64_t>(request.prompt.size()) + request.max_new_tokens - 1;
    return pages_for(tokens, options_.block_size) <= options_.blocks;
  }

  uint64_t& place(const ScheduledSequence& sequence, int64_t position) {
    const int64_t index = position / options_.block_size;
    LORAX_CHECK(index < sequence.blocks.size());
    const int64_t block = sequence.blocks.ids()[static_cast<size_t>(index)];
    return pages_[static_cast<size_t>(block * options_.block_size +
                                      position % options_.block_size)];
  }

  // The ids of a step's tokens, the last of which may be known to the device alone.
  int32_t token_at(const ScheduledSequence& sequence, int64_t position) {
    const int32_t token = sequence.tokens[static_cast<size_t>(position)];
    if (token != kUnknownToken) return token;
    LORAX_CHECK(overlaps_ && position + 1 == sequence.length());
    return last_tokens_.at(sequence.id);
  }

  Row compute(const StepWork& work) {
    const ScheduledSequence& sequence = *work.sequence;
    LORAX_CHECK(work.begin == sequence.cached && !sequence.ended);
    Ended& state = live_.at(sequence.id);
    if (state.first_step < 0) {
      state.first_step = steps_;
      state.cached_prompt_tokens = work.begin;
    }
    LORAX_CHECK(sequence.cached_prompt_tokens == state.cached_prompt_tokens);
    state.preemptions = sequence.preemptions;
    const std::string digest = sequence.adapter == nullptr ? "" : sequence.adapter->digest();
    const auto known = digests_.emplace(sequence.id, digest).first;
    LORAX_CHECK(known->second == digest, "a request changes its adapter");
    uint64_t hash = start(digest);
    for (int64_t i = 0; i < work.begin; ++i) {
      hash = extend(hash, token_at(sequence, i));
      LORAX_CHECK(place(sequence, i) == hash, "request {}: token {} is not in its page",
                  sequence.id, i);
    }
    for (int64_t i = work.begin; i < work.begin + work.tokens; ++i) {
      const int32_t block = sequence.blocks.ids()[static_cast<size_t>(i / options_.block_size)];
      LORAX_CHECK(scheduler_.allocator().uses(block) == 1 && !scheduler_.allocator().is_kept(block),
                  "page {} is written while others read it", block);
      hash = extend(hash, token_at(sequence, i));
      place(sequence, i) = hash;
    }
    int64_t& service = service_[state.request.adapter];
    const int64_t prompt_end = std::min(work.begin + work.tokens, sequence.prompt_length);
    int64_t& computed = computed_[sequence.id];
    const int64_t begin = std::max(computed, work.begin);
    service += options_.input_weight * std::max<int64_t>(0, prompt_end - begin);
    computed = std::max(computed, prompt_end);
    if (!work.samples) return {&sequence, false, 0};
    service += options_.output_weight;
    const int32_t token = next_token(hash);
    last_tokens_[sequence.id] = token;
    return {&sequence, true, token};
  }

  // Of the oldest step.
  void commit() {
    results_.clear();
    std::vector<RequestId> gone;
    for (const Row& row : computed_steps_.front()) {
      StepResult& result = results_.emplace_back();
      if (row.sequence->ended || !row.samples) continue;
      const RequestId id = row.sequence->id;
      live_.at(id).preemptions = row.sequence->preemptions;
      result = sampled(live_.at(id), row.token);
      if (result.kind != StepResult::Kind::kComputed) gone.push_back(id);
    }
    scheduler_.commit(results_, now_);
    computed_steps_.pop_front();
    for (RequestId id : gone) {
      Ended& state = live_.at(id);
      if (state.reason == FinishReason::kLength) check_text(state, digests_.at(id));
      finish(id);
    }
    check_pages();
  }

  StepResult sampled(Ended& state, int32_t token) {
    if (state.generated.empty()) {
      state.first_token_step = steps_;
    } else {
      state.longest_gap = std::max(state.longest_gap, steps_ - state.last_token_step);
    }
    state.last_token_step = steps_;
    state.generated.push_back(token);
    const int64_t count = static_cast<int64_t>(state.generated.size());
    if (count == state.request.discarded_after) {
      state.reason = FinishReason::kFailed;
      return {.kind = StepResult::Kind::kDiscarded, .token = {}};
    }
    if (count == state.request.stops_after) return {.kind = StepResult::Kind::kEnded, .token = {}};
    return {.kind = StepResult::Kind::kComputed, .token = token};
  }

  static void check_text(const Ended& state, const std::string& digest) {
    uint64_t hash = start(digest);
    for (int32_t token : state.request.prompt) hash = extend(hash, token);
    for (int32_t token : state.generated) {
      LORAX_CHECK(token == next_token(hash), "a text differs from that of the request alone");
      hash = extend(hash, token);
    }
  }

  void end(const EndedRequest& ended) {
    Ended& state = live_.at(ended.id);
    state.reason = ended.reason;
    state.failure = ended.failure;
    state.preemptions = ended.preemptions;
    LORAX_CHECK(ended.cached_prompt_tokens == state.cached_prompt_tokens);
    finish(ended.id);
  }

  void finish(RequestId id) {
    Ended& state = live_.at(id);
    state.ended_step = steps_;
    LORAX_CHECK(ended_.emplace(id, std::move(state)).second, "request {} ends twice", id);
    live_.erase(id);
    digests_.erase(id);
    computed_.erase(id);
    last_tokens_.erase(id);
  }

  void check_plan(const StepPlan& plan) {
    std::set<const ScheduledSequence*> seen;
    int64_t tokens = 0;
    for (const StepWork& work : plan.work) {
      LORAX_CHECK(seen.insert(work.sequence).second, "a sequence is in a step twice");
      LORAX_CHECK(work.tokens >= 1 && work.tokens <= work.sequence->pending());
      LORAX_CHECK(work.samples == (work.tokens == work.sequence->pending()));
      LORAX_CHECK(options_.chunked_prefill || work.samples);
      tokens += work.tokens;
    }
    LORAX_CHECK(tokens == plan.tokens && tokens <= options_.step_tokens);
    LORAX_CHECK(static_cast<int64_t>(scheduler_.running().size()) <= options_.max_running);
    LORAX_CHECK(plan.work.empty() == scheduler_.running().empty());
    LORAX_CHECK(overlaps_ || scheduler_.leaving().empty());
    check_left_out(plan, seen);
  }

  // Whoever joins leaves a page for each of the others to grow into.
  void check_room_to_grow(const std::set<const ScheduledSequence*>& ran) const {
    const std::vector<ScheduledSequence*>& running = scheduler_.running();
    const bool joined = std::ranges::any_of(
        running, [&](const ScheduledSequence* sequence) { return !ran.contains(sequence); });
    const BlockAllocator& allocator = scheduler_.allocator();
    LORAX_CHECK(!joined || allocator.free() + allocator.idle() >= std::ssize(running) - 1,
                "no pages are left to grow into");
  }

  // Sequences that generate are in every plan; but a crowd may miss one for newcomers, which is no
  // larger than its own, and not the next.
  void check_left_out(const StepPlan& plan, const std::set<const ScheduledSequence*>& planned) {
    int64_t left_out = 0;
    for (const ScheduledSequence* sequence : scheduler_.running()) {
      left_out += sequence->pending() == 1 && !planned.contains(sequence) ? 1 : 0;
    }
    const bool misses = left_out > 0;
    LORAX_CHECK(!misses || (options_.crowd > 0 && left_out >= options_.crowd &&
                            plan.tokens <= left_out && !crowd_missed_));
    for (const StepWork& work : plan.work) LORAX_CHECK(!misses || work.samples);
    crowd_missed_ = misses;
  }

  // What the allocator counts is what sequences hold.
  void check_pages() {
    std::map<int32_t, int64_t> uses;
    for (const ScheduledSequence* sequence : scheduler_.running()) {
      for (int32_t block : sequence->blocks.ids()) ++uses[block];
    }
    for (const ScheduledSequence* sequence : scheduler_.leaving()) {
      for (int32_t block : sequence->blocks.ids()) ++uses[block];
    }
    const BlockAllocator& allocator = scheduler_.allocator();
    LORAX_CHECK(allocator.in_use() == static_cast<int64_t>(uses.size()));
    LORAX_CHECK(allocator.free() + allocator.idle() + allocator.in_use() == options_.blocks);
    for (const auto& [block, count] : uses) LORAX_CHECK(allocator.uses(block) == count);
    const SchedulerStats stats = scheduler_.stats();
    LORAX_CHECK(stats.waiting + stats.running == static_cast<int64_t>(live_.size()) ||
                !scheduler_.idle());
  }

  const SchedulerOptions options_;
  const bool overlaps_;
  Scheduler scheduler_;
  std::vector<uint64_t> pages_;
  std::deque<std::vector<Row>> computed_steps_;  // that are not committed, the oldest first
  std::map<RequestId, int32_t> last_tokens_;     // as a device would have them
  std::vector<StepResult> results_;
  std::map<RequestId, Ended> live_;
  std::map<RequestId, Ended> ended_;
  std::map<RequestId, std::string> digests_;
  std::map<RequestId, int64_t> computed_;  // tokens of the prompt, once
  std::map<std::string, int64_t> service_;
  RequestId last_id_ = 0;
  Time now_{};
  int64_t steps_ = 0;
  bool crowd_missed_ = false;  // the last step
};

}  // namespace lorax::sim
