#include "server/worker_pool.h"

#include <utility>

#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>

#include "base/check.h"

namespace lorax {

namespace asio = boost::asio;

WorkerPool::WorkerPool(int threads, int64_t most_pending, OnError on_error)
    : threads_(threads), most_pending_(most_pending), on_error_(std::move(on_error)) {
  LORAX_CHECK(threads >= 1 && most_pending >= 1);
  pool_ = std::make_unique<asio::thread_pool>(static_cast<size_t>(threads));
}

WorkerPool::~WorkerPool() = default;

bool WorkerPool::try_run(Work work) {
  if (pending_.fetch_add(1, std::memory_order_relaxed) >= most_pending_) {
    pending_.fetch_sub(1, std::memory_order_relaxed);
    return false;
  }
  asio::post(*pool_, [this, work = std::move(work)]() mutable {
    run(std::exchange(work, nullptr));
    pending_.fetch_sub(1, std::memory_order_relaxed);
  });
  return true;
}

void WorkerPool::run(const Work& work) {
  try {
    work();
  } catch (...) {
    on_error_(std::current_exception());
  }
}

}  // namespace lorax
