// What the engine does when a step has thrown: where memory was short it begins anew, else it has
// failed. Nothing here may throw: there is nobody left to catch it.
#include <chrono>
#include <exception>
#include <new>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/out_of_memory.h"
#include "engine/engine.h"

namespace lorax {
namespace {

// For a new scheduler: so often, so far apart.
constexpr int kAttempts = 100;
constexpr std::chrono::milliseconds kPause{20};

}  // namespace

void Engine::recover_from_step(const StepPlan& plan, const std::exception_ptr& error) noexcept {
  try {
    StepReport report = report_of(plan);
    report.succeeded = false;
    on_step_(report);
  } catch (...) {  // whoever counts steps is short of memory, too
  }
  recover(error);
}

void Engine::recover(const std::exception_ptr& error) noexcept {
  if (healthy_ && is_out_of_memory(error)) {
    try {
      return begin_anew();
    } catch (...) {  // fails, as said below
    }
  }
  fail(message_of(error));
}

void Engine::begin_anew() {
  if (!settle_device()) throw Error("the device does not answer");
  const size_t lost = requests_.size();
  drop_steps();
  while (!requests_.empty()) {
    end(requests_.begin()->first, {.reason = FinishReason::kFailed,
                                   .failure = FailureKind::kMemory,
                                   .error = {},
                                   .delta = {},
                                   .stop_sequence = {}});
  }
  const SchedulerStats stats = scheduler_->stats();
  before_.preemptions += stats.preemptions;
  before_.prefix_tokens_queried += stats.prefix_tokens_queried;
  before_.prefix_tokens_hit += stats.prefix_tokens_hit;
  scheduler_.reset();
  make_scheduler();
  if (!on_warning_) return;
  try {
    on_warning_(
        fmt::format("the engine: out of memory in the midst of a step; {} requests have "
                    "failed, and it goes on without them",
                    lost));
  } catch (...) {
  }
}

// What all those requests had held is free, if not at once.
void Engine::make_scheduler() {
  for (int attempt = 1; scheduler_ == nullptr; ++attempt) {
    try {
      scheduler_ = std::make_unique<Scheduler>(plan_.scheduler, *exchange_);
    } catch (const std::bad_alloc&) {
      if (attempt == kAttempts) throw;
      if (!release_memory_reserve()) std::this_thread::sleep_for(kPause);
    }
  }
}

void Engine::drop_steps() noexcept {
  busy_ = false;
  sampled_ = nullptr;
  steps_->drop();
  ends_.clear();
  asked_ahead_.clear();
}

void Engine::fail(const std::string& error) noexcept {
  const bool is_first = healthy_.exchange(false);
  settle_device();
  drop_steps();
  taken_cancels_.clear();
  std::string message;
  try {
    message = fmt::format("the engine has failed: {}", error);
  } catch (...) {  // out of memory: short enough to need none
    message = "engine failed";
  }
  end_all(FinishReason::kFailed, FailureKind::kService, message);
  if (!is_first) return;
  try {
    on_failed_(message);
  } catch (...) {
  }
}

bool Engine::settle_device() noexcept {
  try {
    model_.device().synchronize();
    return true;
  } catch (...) {  // it has been told, or fails the next step
    return false;
  }
}

void Engine::end_all(FinishReason reason, FailureKind failure, const std::string& error) noexcept {
  ends_.clear();
  try {
    if (scheduler_ == nullptr) throw std::bad_alloc();
    for (EndedRequest& ended : scheduler_->end_all()) {
      ended.reason = reason;
      ended.failure = failure;
      ended.error = error;
      end(ended);
    }
  } catch (...) {  // the scheduler's own failure
  }
  while (!requests_.empty()) {
    EndedRequest left;
    left.id = requests_.begin()->first;
    left.reason = reason;
    left.failure = failure;
    try {
      left.error = error;
    } catch (const std::bad_alloc&) {
    }
    end(left);
  }
}

}  // namespace lorax
