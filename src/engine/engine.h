// The engine: one thread that turns requests into tokens, step by step: schedule, forward, sample,
// commit. Where the device works beside the host, a step is scheduled and its forward asked for
// before the one in front of it is committed. The engine owns what a step needs: runner, pages,
// scheduler, adapters.
//
// Where memory runs out: what a request's life needs is allocated by submit(), on its client's
// thread; what fails as the engine takes it in, or as it tells its client, is that request. In the
// midst of a step nobody knows where the books stand: then all requests end as failed (kMemory),
// and the engine begins anew with an empty scheduler. If there is no memory for that either, it has
// failed.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "adapters/store/adapter_store.h"
#include "adapters/store/model_adapter_backend.h"
#include "engine/engine_options.h"
#include "engine/load/loaded_model.h"
#include "engine/load/store_adapter_exchange.h"
#include "engine/run/engine_request.h"
#include "engine/run/model_runner.h"
#include "engine/run/step_runner.h"
#include "engine/schedule/fair_places.h"
#include "engine/schedule/generation_service.h"
#include "engine/schedule/scheduler.h"
#include "text/tokenizer.h"

namespace lorax {

class Engine final : public GenerationService {
 public:
  // Both must outlive this. Without a tokenizer (null) all texts are empty, and stop strings are
  // never found. Throws Error for options that cannot be met, or if memory is short.
  Engine(LoadedModel& model, const Tokenizer* tokenizer, EngineOptions options);
  // As stop(), without grace.
  ~Engine() override;

  Submitted submit(GenerationRequest request, std::shared_ptr<GenerationSink> sink) override;
  void cancel(RequestId id) noexcept override;
  const ServiceLimits& limits() const override { return plan_.limits; }
  ServiceStats stats() const override;
  bool healthy() const override { return healthy_; }
  // How long the engine's thread has been at one turn of its loop, a step at most; 0 while it
  // sleeps because there is nothing to do.
  std::chrono::nanoseconds busy_for() const;

  // Takes no more requests; lets those it has go on for `grace`, then cancels what is left. Returns
  // when all have ended. A second call does nothing.
  void stop(std::chrono::milliseconds grace);

  // For loading and unloading by name, and its statistics; any thread.
  AdapterStore& adapters() { return *store_; }
  // What the options came to.
  const EnginePlan& plan() const { return plan_; }
  const GraphStats& graph_stats() const { return runner_->graph_stats(); }
  double warm_up_seconds() const { return warm_up_seconds_; }

 private:
  using Clock = std::chrono::steady_clock;
  using Requests = std::unordered_map<RequestId, std::unique_ptr<EngineRequest>>;
  struct Submission {
    Requests::node_type request;
    AdapterTicket ahead;  // so that its adapter loads while the step in hand runs
  };

  // The engine's thread. Those that are noexcept do what they do without memory, if need be.
  void run() noexcept;
  void turn();
  bool wait_for_work();
  void take_inbox();
  void accept(Submission submission) noexcept;
  // Returns whether there was anything to do.
  bool step(const StepPlan& plan);
  void forward(const StepPlan& plan);
  void commit(const StepPlan& plan);
  // What became of an entry.
  void report(const StepPlan& plan, size_t entry, EngineRequest& request, bool is_next,
              std::span<const SampledToken> tokens);
  // After something threw that is no one request's: begins anew where memory was short, else fails.
  void recover(const std::exception_ptr& error) noexcept;
  static StepReport report_of(const StepPlan& plan);
  // After a step that threw.
  void recover_from_step(const StepPlan& plan, const std::exception_ptr& error) noexcept;
  // Ends all requests, and takes a new scheduler.
  void begin_anew();
  void make_scheduler();
  // Ends everything. Nothing that was computed can be trusted.
  void fail(const std::string& error) noexcept;
  void drop_steps() noexcept;
  // Until the device runs nothing any more. False if it cannot.
  bool settle_device() noexcept;
  void end(const EndedRequest& ended) noexcept;
  void end(RequestId id, GenerationEnd end) noexcept;
  // Of all that were accepted, also those that have not been looked at.
  void end_all(FinishReason reason, FailureKind failure, const std::string& error) noexcept;
  void publish(bool with_lists) noexcept;
  void publish_stats(bool with_lists);

  LoadedModel& model_;
  const Tokenizer* const tokenizer_;
  const std::function<void(const StepReport&)> on_step_;
  const std::function<void(const std::string&)> on_failed_;
  const std::function<void(const std::string&)> on_warning_;
  EnginePlan plan_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_:
  std::vector<Submission> inbox_;
  std::vector<RequestId> cancelled_;
  bool woken_ = false;
  bool stopping_ = false;
  Clock::time_point stop_at_;
  std::unique_ptr<FairPlaces> places_;  // of requests that were accepted and have not ended
  RequestId last_id_ = 0;
  ServiceStats stats_;

  double warm_up_seconds_ = 0.0;
  std::atomic<bool> healthy_{true};
  std::atomic<Clock::rep> turn_began_{0};  // 0: the thread sleeps, or has ended
  std::unique_ptr<AdapterTables> tables_;
  std::unique_ptr<ModelAdapterBackend> backend_;
  std::unique_ptr<AdapterStore> store_;
  std::unique_ptr<StoreAdapterExchange> exchange_;
  std::unique_ptr<ModelRunner> runner_;

  // Used by the engine's thread alone:
  std::unique_ptr<Scheduler> scheduler_;
  Requests requests_;
  bool busy_ = false;  // there was a step just now: there may be more to do
  std::unique_ptr<StepRunner> steps_;
  const StepPlan* sampled_ = nullptr;  // the step that was sampled and is not committed
  Clock::time_point step_ended_;       // of the last one that was committed
  std::vector<Submission> taken_;
  std::vector<RequestId> taken_cancels_;
  std::vector<AdapterTicket> asked_ahead_;     // until the scheduler has asked for itself
  std::vector<EngineRequest*> step_requests_;  // of each entry of the plan
  std::vector<StepResult> results_;
  std::vector<std::pair<RequestId, GenerationEnd>> ends_;  // of this step
  ServiceStats counts_;                                    // since the start, and of the last step
  SchedulerStats before_;        // counts of schedulers that were given up
  Clock::time_point listed_at_;  // when stats_ got its lists of adapters

  std::thread thread_;
};

}  // namespace lorax
