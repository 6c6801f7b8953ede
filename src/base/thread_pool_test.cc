#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>

#include <atomic>
#include <thread>
#include <vector>

namespace lorax {
namespace {

TEST(ThreadPoolTest, CallsEveryIndexOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (int64_t count : {0, 1, 2, 3, 100, 1000}) {
      std::vector<std::atomic<int>> calls(static_cast<size_t>(count));
      pool.parallel_for(count, [&](int64_t index, int worker) {
        ASSERT_GE(worker, 0);
        ASSERT_LT(worker, threads);
        calls[static_cast<size_t>(index)].fetch_add(1);
      });
      for (const std::atomic<int>& n : calls) EXPECT_EQ(n.load(), 1);
    }
  }
}

TEST(ThreadPoolTest, ManyShortJobsInARow) {
  ThreadPool pool(4);
  std::atomic<int64_t> sum{0};
  for (int job = 0; job < 5000; ++job) {
    pool.parallel_for(8, [&](int64_t index, int) { sum.fetch_add(index); });
  }
  EXPECT_EQ(sum.load(), 5000 * 28);
}

TEST(ThreadPoolTest, ResultsOfAJobAreVisibleToTheCaller) {
  ThreadPool pool(3);
  std::vector<int64_t> out(64);
  for (int64_t job = 1; job < 200; ++job) {
    pool.parallel_for(64, [&](int64_t index, int) { out[static_cast<size_t>(index)] = job; });
    for (int64_t value : out) ASSERT_EQ(value, job);
  }
}

// Holds up threads as a busy machine does: in the handler of a signal until it is let go.
class HeldThread {
 public:
  explicit HeldThread(pthread_t thread) {
    sem_init(&held_, 0, 0);
    sem_init(&released_, 0, 0);
    struct sigaction action = {};
    action.sa_handler = [](int) {
      sem_post(&held_);
      while (sem_wait(&released_) != 0) continue;
    };
    action.sa_flags = SA_RESTART;
    sigaction(SIGUSR2, &action, nullptr);
    pthread_kill(thread, SIGUSR2);
    while (sem_wait(&held_) != 0) continue;
  }
  ~HeldThread() { sem_post(&released_); }

 private:
  static inline sem_t held_, released_;
};

TEST(ThreadPoolTest, AWorkerWithoutACoreHoldsUpNobody) {
  ThreadPool pool(2);
  std::atomic<bool> known{false};
  pthread_t worker = {};
  // Two indices that wait for each other, so that both threads take one.
  std::atomic<int> arrived{0};
  pool.parallel_for(2, [&](int64_t, int index) {
    if (index == 1) {
      worker = pthread_self();
      known.store(true);
    }
    arrived.fetch_add(1);
    while (arrived.load() < 2) std::this_thread::yield();
  });
  ASSERT_TRUE(known.load());
  std::atomic<int64_t> calls{0};
  {
    const HeldThread held(worker);
    for (int job = 0; job < 100; ++job) {
      pool.parallel_for(8, [&](int64_t, int index) {
        EXPECT_EQ(index, 0);
        calls.fetch_add(1);
      });
    }
  }
  EXPECT_EQ(calls.load(), 800);
  // And it is back afterwards.
  arrived.store(0);
  pool.parallel_for(2, [&](int64_t, int) {
    arrived.fetch_add(1);
    while (arrived.load() < 2) std::this_thread::yield();
  });
}

}  // namespace
}  // namespace lorax
