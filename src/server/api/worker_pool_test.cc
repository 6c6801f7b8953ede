#include "server/api/worker_pool.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/eventually.h"

namespace lorax {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

void no_error(const std::exception_ptr&) { ADD_FAILURE() << "work has thrown"; }

class WorkerPoolTest : public testing::Test {
 protected:
  // Work that waits until the gate opens, and says when it begins.
  WorkerPool::Work blocked(const std::string& flow, const std::string& place = "") {
    return work(flow, place, [this](Claim&) {
      ++begun_;
      opened_.wait();
    });
  }
  static WorkerPool::Work simple(const std::string& flow, std::function<void()> run) {
    return work(flow, "", [run = std::move(run)](Claim&) { run(); });
  }
  static WorkerPool::Work work(const std::string& flow, const std::string& place,
                               std::function<void(Claim&)> run) {
    WorkerPool::Work made;
    made.flow = flow;
    made.place = place;
    made.run = std::move(run);
    return made;
  }
  void open() { gate_.set_value(); }

  std::promise<void> gate_;
  std::shared_future<void> opened_ = gate_.get_future().share();
  std::atomic<int> begun_{0};
};

TEST_F(WorkerPoolTest, WorkRunsOnSoManyThreadsAtOnce) {
  // Each waits for the other, so neither ends unless both run.
  std::promise<std::thread::id> first;
  std::promise<std::thread::id> second;
  std::promise<bool> differ;
  auto of_first = first.get_future().share();
  auto of_second = second.get_future().share();
  WorkerPool pool({.threads = 1}, no_error);  // ends before what its work uses
  EXPECT_EQ(pool.threads(), 1);
  ASSERT_TRUE(pool.try_run(simple("a",
                                  [&] {
                                    first.set_value(std::this_thread::get_id());
                                    differ.set_value(of_second.get() != std::this_thread::get_id());
                                  }))
                  .taken);
  ASSERT_TRUE(pool.try_run(simple("b",
                                  [&] {
                                    second.set_value(std::this_thread::get_id());
                                    of_first.wait();
                                  }))
                  .taken);
  EXPECT_TRUE(differ.get_future().get());
  EXPECT_NE(of_first.get(), std::this_thread::get_id());
}

TEST_F(WorkerPoolTest, TooMuchIsRefusedUntilSomeIsDone) {
  WorkerPool pool({.threads = 1, .most_pending = 3}, no_error);
  ASSERT_TRUE(pool.try_run(blocked("a")).taken);
  ASSERT_TRUE(pool.try_run(blocked("b")).taken);
  const auto token = std::make_shared<int>();
  const FairPlaces::Answer refused = pool.try_run(simple("a", [token] { ADD_FAILURE(); }));
  EXPECT_FALSE(refused.taken);
  EXPECT_GE(refused.retry_after, seconds(1));
  EXPECT_EQ(token.use_count(), 1);
  EXPECT_TRUE(pool.try_run(simple("c", [] {})).taken) << "another flow has its place";
  WorkerPool::Work probe = simple("d", [] {});
  EXPECT_FALSE(pool.try_run(probe).taken);
  probe.always = true;
  EXPECT_TRUE(pool.try_run(probe).taken);
  open();
  EXPECT_TRUE(eventually([&] { return pool.try_run(simple("a", [] {})).taken; }));
}

TEST_F(WorkerPoolTest, WhatWorkThrowsIsReportedAndEndsNothing) {
  std::promise<std::string> message;
  std::promise<void> done;
  WorkerPool pool({.threads = 1}, [&](const std::exception_ptr& error) {
    try {
      std::rethrow_exception(error);
    } catch (const std::runtime_error& thrown) {
      message.set_value(thrown.what());
    }
  });
  ASSERT_TRUE(pool.try_run(simple("a", [] { throw std::runtime_error("no"); })).taken);
  EXPECT_EQ(message.get_future().get(), "no");
  ASSERT_TRUE(pool.try_run(simple("a", [&] { done.set_value(); })).taken);
  done.get_future().wait();
}

TEST_F(WorkerPoolTest, TheEndWaitsForWhatRunsAndDropsTheRest) {
  auto token = std::make_shared<int>();
  std::promise<void> begun;
  bool ended = false;
  {
    WorkerPool pool({.threads = 1}, no_error);
    ASSERT_TRUE(pool.try_run(simple("a",
                                    [&, token] {
                                      begun.set_value();
                                      std::this_thread::sleep_for(milliseconds(20));
                                      ended = true;
                                    }))
                    .taken);
    begun.get_future().wait();
    ASSERT_TRUE(pool.try_run(simple("a", [token] { ADD_FAILURE() << "it ran"; })).taken);
    EXPECT_FALSE(pool.stop(milliseconds(0)));
    EXPECT_FALSE(pool.try_run(simple("a", [token] { ADD_FAILURE() << "it ran"; })).taken);
    EXPECT_TRUE(pool.stop(seconds(60)));
  }
  EXPECT_TRUE(ended);
  EXPECT_EQ(token.use_count(), 1);
}

// By the time that their work takes, not by its number.
TEST_F(WorkerPoolTest, FlowsShareTheTime) {
  std::atomic<int> slow{0};
  std::atomic<int> quick{0};
  WorkerPool pool({.threads = 1, .most_pending = 1000}, no_error);
  for (const char* flow : {"gate", "other gate"}) ASSERT_TRUE(pool.try_run(blocked(flow)).taken);
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(pool.try_run(simple(i % 2 == 0 ? "slow" : "slow, too",
                                    [&] {
                                      std::this_thread::sleep_for(milliseconds(5));
                                      ++slow;
                                    }))
                    .taken);
  }
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(pool.try_run(simple("quick", [&] { ++quick; })).taken);
  open();
  ASSERT_TRUE(eventually([&] { return quick == 100; }));
  EXPECT_LT(slow, 100) << "the quick one has taken turns with the slow ones";
}

TEST_F(WorkerPoolTest, OneFlowLeavesAThreadToTheOthers) {
  std::promise<void> done;
  WorkerPool pool({.threads = 1}, no_error);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(pool.try_run(blocked("a")).taken);
  ASSERT_TRUE(pool.try_run(simple("b", [&] { done.set_value(); })).taken);
  EXPECT_EQ(done.get_future().wait_for(seconds(60)), std::future_status::ready);
  EXPECT_EQ(begun_, 1);
  open();
  EXPECT_TRUE(eventually([&] { return begun_ == 4; }));
}

TEST_F(WorkerPoolTest, ThreadsThatHangAreReplacedButFewInOnePlace) {
  WorkerPool pool({.threads = 2, .stuck_after = milliseconds(10), .most_stuck_in_place = 2},
                  no_error);
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(pool.try_run(blocked(fmt::format("m/{}", i), "m")).taken);
  }
  EXPECT_TRUE(eventually([&] { return begun_ >= 2; }));
  for (int i = 0; i < 20; ++i) {  // others, and of other places
    std::promise<void> done;
    WorkerPool::Work work = simple("other", [&] { done.set_value(); });
    work.place = i % 2 == 0 ? "" : "n";
    ASSERT_TRUE(pool.try_run(std::move(work)).taken);
    ASSERT_EQ(done.get_future().wait_for(seconds(60)), std::future_status::ready);
    std::this_thread::sleep_for(milliseconds(2));
  }
  EXPECT_LE(begun_, 5) << "two that hang, and as many as threads before these were known to";
  open();
  EXPECT_TRUE(eventually([&] { return begun_ == 8; })) << "the place answers again";
}

// However work ends, its place comes back and nothing is pending: more rounds than there are
// places.
TEST_F(WorkerPoolTest, NothingIsPendingAfterAnyKindOfEnd) {
  constexpr int64_t kPlaces = 4;
  std::atomic<int> late{0};
  std::atomic<int> thrown{0};
  WorkerPool pool({.threads = 1, .most_pending = kPlaces},
                  [&](const std::exception_ptr&) { ++thrown; });
  for (int round = 0; round < 3 * kPlaces; ++round) {
    std::promise<void> gate;
    const std::shared_future<void> opened = gate.get_future().share();
    const auto wait = [this, opened] {
      ++begun_;
      opened.wait();
    };
    for (const char* flow : {"a", "b"}) ASSERT_TRUE(pool.try_run(simple(flow, wait)).taken);
    ASSERT_TRUE(eventually([&] { return begun_ == 2 * (round + 1); }));
    // Both threads are taken: what comes now waits, and ends by its deadline.
    WorkerPool::Work too_late = simple("c", [] { ADD_FAILURE() << "it ran"; });
    too_late.deadline = WorkerPool::Clock::now();
    too_late.late = [&](bool) { ++late; };
    ASSERT_TRUE(pool.try_run(std::move(too_late)).taken) << round;
    ASSERT_TRUE(eventually([&] { return late == round + 1; }));
    ASSERT_TRUE(pool.try_run(simple("d", [] { throw 1; })).taken) << round;
    ASSERT_TRUE(pool.try_run(simple("e", [] {})).taken) << round;
    EXPECT_FALSE(pool.try_run(simple("f", [] { ADD_FAILURE() << "it ran"; })).taken) << round;
    WorkerPool::Work always = simple("f", [] {});
    always.always = true;
    EXPECT_TRUE(pool.try_run(std::move(always)).taken);
    EXPECT_FALSE(pool.wait_until_idle(milliseconds(0)));
    gate.set_value();
    ASSERT_TRUE(pool.wait_until_idle(kTestPatience)) << round;
    EXPECT_EQ(thrown, round + 1);
  }
  begun_ = 0;
  for (const char* flow : {"a", "b"}) ASSERT_TRUE(pool.try_run(blocked(flow)).taken);
  ASSERT_TRUE(eventually([&] { return begun_ == 2; }));
  ASSERT_TRUE(pool.try_run(simple("c", [] { ADD_FAILURE() << "it ran"; })).taken);
  EXPECT_FALSE(pool.stop(milliseconds(0)));
  open();
  EXPECT_TRUE(pool.stop(kTestPatience));
  EXPECT_TRUE(pool.wait_until_idle(milliseconds(0))) << "what was dropped is not pending";
}

// Work that waits and work that hangs; the client is told once, by whoever comes first.
TEST_F(WorkerPoolTest, Deadlines) {
  std::atomic<int> late_begun{0};
  std::atomic<int> late_waiting{0};
  std::atomic<int> claimed{0};
  WorkerPool pool({.threads = 1, .stuck_after = milliseconds(16)}, no_error);
  const auto work = [&](bool hangs) {
    WorkerPool::Work made;
    made.flow = "a";
    made.run = [&, hangs](Claim& claim) {
      if (hangs) opened_.wait();
      claimed += claim.take() ? 1 : 0;
    };
    made.deadline = WorkerPool::Clock::now() + milliseconds(50);
    made.late = [&](bool begun) { ++(begun ? late_begun : late_waiting); };
    return made;
  };
  WorkerPool::Work quick = work(false);
  quick.deadline += seconds(600);
  ASSERT_TRUE(pool.try_run(std::move(quick)).taken);
  ASSERT_TRUE(eventually([&] { return claimed == 1; }));
  ASSERT_TRUE(pool.try_run(work(true)).taken);
  ASSERT_TRUE(pool.try_run(work(false)).taken);
  EXPECT_TRUE(eventually([&] { return late_begun == 1 && late_waiting == 1; }));
  open();
  EXPECT_TRUE(pool.stop(seconds(60)));
  EXPECT_EQ(claimed, 1);
  EXPECT_EQ(late_begun + late_waiting, 2);
}

}  // namespace
}  // namespace lorax
