#include "base/thread_pool.h"

#include "base/check.h"
#include "base/threads.h"

namespace lorax {
namespace {

constexpr int kSpins = 4000;  // about 50 microseconds
// running_ counts the workers that have come to a job and not yet left it, and holds this bit,
// beyond any number of them, while more may come. A job waits for nobody else: on a busy machine a
// worker may get its core back when the others have done all.
constexpr int kOpen = 1 << 30;

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns when `value` differs from `old`: first spinning, then asleep.
template <typename T>
void wait_for_change(const std::atomic<T>& value, T old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
}

// Whether a job was there to come to; leave() follows then.
bool join(std::atomic<int>& running) {
  int workers = running.load(std::memory_order_relaxed);
  while ((workers & kOpen) != 0) {
    if (running.compare_exchange_weak(workers, workers + 1, std::memory_order_acquire)) return true;
  }
  return false;
}

// The last to leave a closed job tells run().
void leave(std::atomic<int>& running) {
  if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) running.notify_one();
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  LORAX_CHECK(threads >= 1);
  workers_.reserve(static_cast<size_t>(threads - 1));
  try {
    for (int worker = 1; worker < threads; ++worker) {
      workers_.push_back(start_thread("computing", [this, worker] { work(worker); }));
    }
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  stopping_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int64_t count, Call call, void* function) {
  if (count <= 0) return;
  if (workers_.empty() || count == 1) {
    for (int64_t index = 0; index < count; ++index) call(function, index, 0);
    return;
  }
  call_ = call;
  function_ = function;
  count_ = count;
  next_index_.store(0, std::memory_order_relaxed);
  running_.store(kOpen, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  take_indices(0);
  // What is left to do is in others' hands. Whoever has not come yet finds the job closed.
  int left = running_.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
  while (left != 0) {
    wait_for_change(running_, left);
    left = running_.load(std::memory_order_acquire);
  }
}

void ThreadPool::take_indices(int worker) {
  for (int64_t index = next_index_.fetch_add(1, std::memory_order_relaxed); index < count_;
       index = next_index_.fetch_add(1, std::memory_order_relaxed)) {
    call_(function_, index, worker);
  }
}

void ThreadPool::work(int worker) {
  uint32_t seen = 0;
  while (true) {
    wait_for_change(generation_, seen);
    seen = generation_.load(std::memory_order_acquire);
    if (stopping_.load(std::memory_order_relaxed)) return;
    if (!join(running_)) continue;
    take_indices(worker);
    leave(running_);
  }
}

}  // namespace lorax
