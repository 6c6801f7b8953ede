// Threads for what would hold up those of the transport for too long.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>

namespace boost::asio {
class thread_pool;
}  // namespace boost::asio

namespace lorax {

class WorkerPool {
 public:
  using Work = std::function<void()>;
  // Is told what work has thrown, on the work's thread; must not throw.
  using OnError = std::function<void(const std::exception_ptr& error)>;

  // `threads` and `most_pending`, of work that waits or is being done, are at least 1.
  WorkerPool(int threads, int64_t most_pending, OnError on_error);
  // Waits for what is being done; what waits is destroyed without a call.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  int threads() const { return threads_; }

  // Queues the work. From any thread; never blocks. False if too much is pending: the work is then
  // destroyed.
  bool try_run(Work work);

 private:
  void run(const Work& work);

  const int threads_;
  const int64_t most_pending_;
  const OnError on_error_;
  std::atomic<int64_t> pending_{0};
  std::unique_ptr<boost::asio::thread_pool> pool_;  // last: its threads use the rest
};

}  // namespace lorax
