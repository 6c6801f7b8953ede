// A fork-join pool for the kernels of one step. Workers spin for a few microseconds between jobs
// (a step is hundreds of short jobs) and then sleep. A job allocates nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace lorax {

class ThreadPool {
 public:
  // `threads` >= 1 includes the calling thread, which works too. Throws Error where the system
  // gives none.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls function(index, worker) once for every index in [0, count), with worker in [0, size());
  // indices are handed out in ascending order to whoever is free, and a worker that comes when all
  // are taken is not waited for: a thread without a core holds up its own index at most. Returns
  // when all calls have returned. Jobs must not throw, and must not call parallel_for of the same
  // pool; one thread at a time may call it.
  template <typename Function>
  void parallel_for(int64_t count, Function&& function) {
    using F = std::remove_reference_t<Function>;
    run(
        count, [](void* f, int64_t index, int worker) { (*static_cast<F*>(f))(index, worker); },
        const_cast<void*>(static_cast<const void*>(&function)));
  }

 private:
  using Call = void (*)(void* function, int64_t index, int worker);

  void stop();
  void run(int64_t count, Call call, void* function);
  void take_indices(int worker);
  void work(int worker);

  std::vector<std::thread> workers_;

  // The job in flight: written by run() before generation_ changes.
  Call call_ = nullptr;
  void* function_ = nullptr;
  int64_t count_ = 0;
  alignas(64) std::atomic<int64_t> next_index_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};  // a new value starts a job
  alignas(64) std::atomic<int> running_{0};          // workers at the job; whether it takes more
  std::atomic<bool> stopping_{false};
};

}  // namespace lorax
