#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
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

}  // namespace
}  // namespace lorax
