#include "server/worker_pool.h"

#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace lorax {
namespace {

void no_error(const std::exception_ptr&) { ADD_FAILURE() << "work has thrown"; }

TEST(WorkerPoolTest, WorkRunsOnSoManyThreadsAtOnce) {
  // Each waits for the other, so neither ends unless both run.
  std::promise<std::thread::id> first;
  std::promise<std::thread::id> second;
  std::promise<bool> differ;
  auto of_first = first.get_future().share();
  auto of_second = second.get_future().share();
  WorkerPool pool(2, 8, no_error);  // ends before what its work uses
  EXPECT_EQ(pool.threads(), 2);
  ASSERT_TRUE(pool.try_run([&] {
    first.set_value(std::this_thread::get_id());
    differ.set_value(of_second.get() != std::this_thread::get_id());
  }));
  ASSERT_TRUE(pool.try_run([&] {
    second.set_value(std::this_thread::get_id());
    of_first.wait();
  }));
  EXPECT_TRUE(differ.get_future().get());
  EXPECT_NE(of_first.get(), std::this_thread::get_id());
}

TEST(WorkerPoolTest, TooMuchIsRefusedUntilSomeIsDone) {
  std::promise<void> go;
  std::promise<void> done;
  WorkerPool pool(1, 2, no_error);
  ASSERT_TRUE(pool.try_run([&] { go.get_future().wait(); }));
  ASSERT_TRUE(pool.try_run([&] { done.set_value(); }));
  auto token = std::make_shared<int>();
  EXPECT_FALSE(pool.try_run([token] { ADD_FAILURE(); }));
  EXPECT_EQ(token.use_count(), 1);
  go.set_value();
  done.get_future().wait();
  while (!pool.try_run([] {})) std::this_thread::yield();
}

TEST(WorkerPoolTest, WhatWorkThrowsIsReportedAndEndsNothing) {
  std::promise<std::string> message;
  std::promise<void> done;
  WorkerPool pool(1, 4, [&](const std::exception_ptr& error) {
    try {
      std::rethrow_exception(error);
    } catch (const std::runtime_error& thrown) {
      message.set_value(thrown.what());
    }
  });
  ASSERT_TRUE(pool.try_run([] { throw std::runtime_error("no"); }));
  EXPECT_EQ(message.get_future().get(), "no");
  ASSERT_TRUE(pool.try_run([&] { done.set_value(); }));
  done.get_future().wait();
}

TEST(WorkerPoolTest, TheEndWaitsForWhatRunsAndDropsTheRest) {
  auto token = std::make_shared<int>();
  std::promise<void> begun;
  bool ended = false;
  {
    WorkerPool pool(1, 4, no_error);
    ASSERT_TRUE(pool.try_run([&, token] {
      begun.set_value();
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      ended = true;
    }));
    begun.get_future().wait();
    ASSERT_TRUE(pool.try_run([token] { ADD_FAILURE() << "it ran after the end"; }));
  }
  EXPECT_TRUE(ended);
  EXPECT_EQ(token.use_count(), 1);
}

}  // namespace
}  // namespace lorax
