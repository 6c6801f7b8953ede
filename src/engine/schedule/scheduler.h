// What runs in the next step. Continuous batching: every step takes one token of each sequence that
// generates, and gives the rest of its token budget to prompts, in pieces, in the order of
// fairness. Pages are taken as sequences grow; when there are none left, the youngest sequence is
// preempted: it lets its pages go and is computed again later, what it has generated included.
//
// Where many generate, an adapter that has nothing running begins in a step without them (see
// `crowd`): its first token does not wait for theirs. They miss one step in two at most, which has
// no more rows than theirs.
//
//   const StepPlan& plan = scheduler.schedule(now);
//   ... run plan.work ...
//   scheduler.commit(results, now);   // one per entry of plan.work
//
// One more step may be planned before that, so that a device need not wait for the host:
//
//   schedule() -> a;  schedule() -> b, while a runs;  commit(a's);  schedule() -> c;  commit(b's);
//   ...
//
// Then b takes it that no request ends with a, but those that have all their tokens, and a token
// that a is to give stands in b as kUnknownToken. What b does for a request that did end with a, or
// was cancelled, is lost work: its pages and its adapter are held until b is committed, so that
// nothing that runs loses them.
//
// Host logic only, one thread.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/schedule/adapter_line.h"
#include "engine/schedule/block_allocator.h"
#include "engine/schedule/fair_queue.h"
#include "engine/schedule/generation_service.h"
#include "engine/schedule/prefix_cache.h"

namespace lorax {

struct SchedulerOptions {
  int64_t block_size = 16;   // tokens per page
  int64_t blocks = 0;        // pages
  int64_t max_running = 64;  // sequences of a step
  // Rows of a step; at least max_running. Without chunked prefill it must hold any whole sequence
  // beside them.
  int64_t step_tokens = 256;
  bool chunked_prefill = true;
  bool prefix_cache = true;
  // So many sequences generate when prompts of adapters that have nothing running get a step of
  // their own, if they fit into it whole; 0: never. For devices on which rows take time.
  int64_t crowd = 0;
  // What a token costs its adapter's counter: one that is computed from the prompt, and one that
  // is generated. A token from the prefix cache, or computed again, costs nothing.
  int64_t input_weight = 1;
  int64_t output_weight = 2;
  AdapterLineOptions adapters = {};
};

struct ScheduledRequest {
  RequestId id = 0;         // larger than all before
  std::string adapter;      // "": none
  std::string flow;         // of the fair queue; "": the adapter's own
  std::string cache_scope;  // pages of the prefix cache are shared within one
  std::vector<int32_t> prompt;
  int64_t max_new_tokens = 1;
  bool reuse_prefix = true;  // false: every token of the prompt is computed
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
};

// The last of a sequence's tokens while the step that gives it has not been committed.
constexpr int32_t kUnknownToken = -1;

// A request between submit() and its end, or longer, while a step that has it is not committed.
// Others than the scheduler may read it.
struct ScheduledSequence {
  explicit ScheduledSequence(BlockAllocator& allocator) : blocks(allocator) {}

  int64_t length() const { return static_cast<int64_t>(tokens.size()); }
  int64_t pending() const { return length() - cached; }
  bool ends_unknown() const { return tokens.back() == kUnknownToken; }
  bool is_complete() const { return length() == prompt_length + max_new_tokens; }
  int32_t slot() const { return adapter == nullptr ? -1 : adapter->slot(); }

  RequestId id = 0;
  FairQueue::Client* client = nullptr;  // null once it neither waits nor runs
  std::vector<int32_t> tokens;          // prompt, then what was generated
  int64_t prompt_length = 0;
  int64_t max_new_tokens = 1;
  bool reuse_prefix = true;
  std::string cache_scope;
  int64_t adapter_from = 0;  // position from which on the adapter acts; from the first admission on
  std::string name_space;    // of the prefix cache, likewise
  PrefixStem stem;           // likewise
  std::chrono::steady_clock::time_point deadline;

  // Tokens whose keys and values are in the pages, once the steps planned before the last are done.
  int64_t cached = 0;
  BlockTable blocks;                      // none while it waits
  int64_t registered = 0;                 // pages that the prefix cache knows
  std::shared_ptr<AdapterLease> adapter;  // from the first admission on; null: none
  bool admitted = false;                  // once
  int64_t charged = 0;                    // tokens that the client has paid for
  int64_t cached_prompt_tokens = 0;       // taken from the prefix cache at the first admission
  int64_t preemptions = 0;
  int steps = 0;       // that have it and are not committed
  bool ended = false;  // it is here for these steps only
};

struct StepWork {
  const ScheduledSequence* sequence;  // valid until the commit
  int64_t begin;                      // tokens [begin, begin + tokens) of the sequence
  int64_t tokens;
  bool samples;         // they reach the end of the sequence: the next token is wanted
  int64_t preemptions;  // of the sequence, before this
};

// A request that ended outside of commit().
struct EndedRequest {
  RequestId id = 0;
  FinishReason reason = FinishReason::kFailed;
  FailureKind failure = FailureKind::kNone;
  std::string error;
  int64_t cached_prompt_tokens = 0;
  int64_t preemptions = 0;
};

struct StepPlan {
  std::vector<StepWork> work;
  std::vector<EndedRequest> ended;  // timed out, or failed
  int64_t tokens = 0;               // of all work
};

// What became of an entry of StepPlan::work. Of no meaning for a sequence that has ended.
struct StepResult {
  enum class Kind {
    kComputed,   // its keys and values are in the cache
    kEnded,      // the same, and the request ends
    kDiscarded,  // the request ends, and nothing of this step is to be used again
  };
  Kind kind = Kind::kComputed;
  std::optional<int32_t> token;  // the next one; there exactly if kComputed and StepWork::samples
};

struct SchedulerStats {
  int64_t waiting = 0;
  int64_t running = 0;
  int64_t blocks_used = 0;
  int64_t blocks_cached = 0;
  uint64_t preemptions = 0;
  uint64_t prefix_tokens_queried = 0;
  uint64_t prefix_tokens_hit = 0;
};

class Scheduler {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // `adapters` must outlive this.
  Scheduler(const SchedulerOptions& options, AdapterExchange& adapters);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Requests that can never run end in the next plan. What it throws (std::bad_alloc) leaves
  // everything as it was; all other functions may then leave books that nobody can trust, which are
  // to be given up whole: nothing is lost with them but the requests and the prefix cache.
  void submit(ScheduledRequest request, Time now);
  // Ends a request; nothing if it is not known, or can never run.
  std::optional<EndedRequest> cancel(RequestId id, Time now);
  // Ends them all; of the steps that are not committed nothing is used again. No device may still
  // be running them.
  std::vector<EndedRequest> end_all();

  // A plan that has work is valid until its commit, others until the next call. At most one step is
  // planned and not committed when this is called.
  const StepPlan& schedule(Time now);
  // Of the oldest plan that has work and is not committed.
  void commit(std::span<const StepResult> results, Time now);

  // Whether there are no requests.
  bool idle() const { return sequences_.empty() && rejected_.empty(); }
  // When a plan without work should be asked for again, if nothing happens before. Time::max() if
  // never.
  Time next_event(Time now) const;
  SchedulerStats stats() const;
  // Names of adapters whose requests run, and wait; appended.
  void list_adapters(std::vector<std::string>& running, std::vector<std::string>& waiting) const;

  // Those that may be in the next step; they hold pages.
  const std::vector<ScheduledSequence*>& running() const { return running_; }
  // Those that hold pages for steps that are not committed alone.
  std::vector<const ScheduledSequence*> leaving() const;
  const BlockAllocator& allocator() const { return allocator_; }
  const FairQueue& queue() const { return queue_; }
  const AdapterLine& adapters() const { return line_; }

 private:
  using Sequence = ScheduledSequence;

  void enter(std::unique_ptr<Sequence> sequence, Time now);
  // The parts of schedule(), in order.
  void advance(const StepPlan& plan, Time now);
  void expire(Time now);
  void fail_adapter(FairQueue::Client& client, RequestId last, const std::string& message);
  void yield_slot();
  bool plan_newcomers(Time now);
  void grow_decodes();
  void plan_decodes();
  void plan_prefills(Time now);

  // Where the plan would have more than `rows`, a prompt is cut, or not admitted if `whole`.
  bool admit(FairQueue::Client& client, int64_t rows, bool whole, Time now);
  bool take_pages(Sequence& sequence);
  void plan(Sequence& sequence, int64_t tokens);
  void commit(const StepWork& work, const StepResult& result, Time now);

  // A free page, if need be from the prefix cache.
  bool make_free();
  bool grow(Sequence& sequence);
  // Where the adapter acts, and whose pages of the prefix cache it may share.
  static void enter_name_space(Sequence& sequence);
  static RequestId id_of(const Sequence* sequence) { return sequence->id; }
  Sequence* victim(int64_t at_least) const;
  void preempt(Sequence& sequence);

  // The caller then updates the client.
  EndedRequest end(Sequence& sequence, FinishReason reason);
  EndedRequest end_and_update(Sequence& sequence, FinishReason reason, Time now);
  void leave_running(Sequence& sequence);
  bool is_running(const Sequence& sequence) const;
  void update(FairQueue::Client& client, Time now);

  const SchedulerOptions options_;
  BlockAllocator allocator_;
  std::optional<PrefixCache> cache_;
  FairQueue queue_;
  AdapterLine line_;
  std::unordered_map<RequestId, std::unique_ptr<Sequence>> sequences_;
  std::vector<Sequence*> running_;    // by id: the oldest first
  std::vector<Sequence*> finishing_;  // that have all their tokens, the last one not yet known
  std::vector<std::unique_ptr<Sequence>> ended_;  // that are in steps not committed
  std::set<std::pair<Time, RequestId>> deadlines_;
  std::vector<EndedRequest> rejected_;  // since the last plan
  std::vector<Sequence*> growing_;      // scratch of grow_decodes()
  std::vector<Sequence*> partial_;      // scratch of plan_prefills()
  std::array<StepPlan, 2> plans_;
  StepPlan* plan_ = &plans_[0];      // the last one
  std::vector<StepPlan*> in_steps_;  // that have work and are not committed, the oldest first
  bool advanced_ = false;            // sequences stand as they will after in_steps_.front()
  bool was_newcomers_ = false;       // the last plan was plan_newcomers()'s
  RequestId last_id_ = 0;
  SchedulerStats counts_;
};

}  // namespace lorax
