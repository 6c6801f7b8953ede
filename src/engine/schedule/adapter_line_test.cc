#include "engine/schedule/adapter_line.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/schedule/testing/fake_adapter_exchange.h"

namespace lorax {
namespace {

using State = AdapterLease::State;
using std::chrono::milliseconds;

class AdapterLineTest : public ::testing::Test {
 protected:
  FairQueue::Client& push(const std::string& name) {
    FairQueue::Client& client = queue_.client(name);
    queue_.push(client, ++last_);
    line_.update(client, now_, last_);
    return client;
  }
  void poll() {
    line_.poll(now_, last_, [&](FairQueue::Client& client, RequestId, const std::string& message) {
      failures_.push_back(message);
      while (!client.waiting().empty()) queue_.remove(client, *client.waiting().begin());
      line_.update(client, now_, last_);
    });
  }
  // As the scheduler does when it admits the first request of a client.
  std::shared_ptr<AdapterLease> admit(FairQueue::Client& client) {
    auto lease = line_.lease(client);
    queue_.remove(client, *client.waiting().begin());
    queue_.start(client);
    line_.update(client, now_, last_);
    return lease;
  }

  FakeAdapterExchange adapters_;
  FairQueue queue_;
  AdapterLine line_{adapters_, queue_, {.ahead = 2, .slow_after = milliseconds(100)}};
  AdapterLine::Time now_{};
  RequestId last_ = 0;
  std::vector<std::string> failures_;
};

TEST_F(AdapterLineTest, TheBaseModelIsAlwaysReady) {
  EXPECT_TRUE(push("").is_ready());
  EXPECT_EQ(line_.lease(queue_.client("")), nullptr);
}

TEST_F(AdapterLineTest, AsksForTheNextFewInTheOrderOfFairness) {
  FairQueue::Client& a = push("a");
  push("b");
  push("c");
  queue_.charge(a, 10);  // a comes last
  poll();
  EXPECT_EQ(adapters_.requests, (std::map<std::string, int>{{"b", 1}, {"c", 1}}));
  poll();
  EXPECT_EQ(adapters_.requests.size(), 2u);
}

TEST_F(AdapterLineTest, SlowOnesDoNotCount) {
  push("a");
  push("b");
  push("c");
  poll();
  EXPECT_FALSE(adapters_.requests.contains("c"));
  now_ += milliseconds(100);
  poll();
  EXPECT_TRUE(adapters_.requests.contains("c"));
}

TEST_F(AdapterLineTest, ReadyOnesCountUntilTheyRun) {
  adapters_.states["a"] = State::kReady;
  adapters_.states["b"] = State::kReady;
  FairQueue::Client& a = push("a");
  push("b");
  push("c");
  poll();
  now_ += milliseconds(1000);
  poll();
  EXPECT_TRUE(a.is_ready());
  EXPECT_FALSE(adapters_.requests.contains("c"));
  const auto lease = admit(a);
  EXPECT_FALSE(a.is_ready());
  poll();
  EXPECT_TRUE(adapters_.requests.contains("c"));
}

TEST_F(AdapterLineTest, ALeaseServesThoseWhoWaitedWhenItWasAskedFor) {
  adapters_.states["a"] = State::kReady;
  FairQueue::Client& a = push("a");
  push("a");
  poll();
  push("a");
  const auto first = admit(a);
  const auto second = admit(a);
  EXPECT_EQ(first, second);
  EXPECT_TRUE(a.is_ready());  // asked for again at once, as it is in use
  EXPECT_NE(admit(a), first);
  EXPECT_EQ(adapters_.requests["a"], 2);
}

TEST_F(AdapterLineTest, AFailureIsToldOnceWithItsMessage) {
  push("a");
  poll();
  adapters_.states["a"] = State::kFailed;
  poll();
  poll();
  EXPECT_EQ(failures_, std::vector<std::string>{"a is broken"});
  EXPECT_EQ(adapters_.leases["a"], 0);
}

TEST_F(AdapterLineTest, TheMostServedMakesRoomAndIsHeldOffUntilThereIsSome) {
  adapters_.states["a"] = State::kReady;
  adapters_.states["b"] = State::kReady;
  FairQueue::Client& a = push("a");
  FairQueue::Client& b = push("b");
  poll();
  auto lease_a = admit(a);
  auto lease_b = admit(b);
  adapters_.states["c"] = State::kNoRoom;
  push("c");
  push("a");
  push("b");
  queue_.charge(a, 50);
  queue_.charge(b, 60);
  poll();  // asks for c,
  poll();  // and sees that it lacks room
  EXPECT_TRUE(a.is_ready());
  EXPECT_FALSE(b.is_ready());
  lease_b.reset();
  queue_.stop(b);
  line_.update(b, now_, last_);
  EXPECT_FALSE(b.is_ready());  // c has not got it yet
  adapters_.states["c"] = State::kReady;
  poll();
  EXPECT_TRUE(queue_.client("c").is_ready());
  poll();
  EXPECT_TRUE(b.is_ready());
}

// However often it is looked at: as long as the one that drains holds its adapter, all others go
// on.
TEST_F(AdapterLineTest, OneDrainsAtATime) {
  const std::vector<std::string> names = {"a", "b", "c", "d"};
  for (const std::string& name : names) {
    adapters_.states[name] = State::kReady;
    push(name);
    poll();
    admit(queue_.client(name));
    push(name);
  }
  adapters_.states["late"] = State::kNoRoom;
  push("late");
  for (size_t i = 0; i < names.size(); ++i) {
    queue_.charge(queue_.client(names[i]), 50 + static_cast<int64_t>(i));
  }
  const auto ready = [&] {
    std::string ready;
    for (const std::string& name : names) ready += queue_.client(name).is_ready() ? name : "";
    return ready;
  };
  for (int i = 0; i < 5; ++i) poll();
  EXPECT_EQ(ready(), "abc");
  FairQueue::Client& d = queue_.client("d");
  queue_.stop(d);
  line_.update(d, now_, last_);
  // It has let go, and that was not enough.
  for (int i = 0; i < 5; ++i) poll();
  EXPECT_EQ(ready(), "ab");
  adapters_.states["late"] = State::kReady;
  for (int i = 0; i < 3; ++i) poll();
  EXPECT_EQ(ready(), "abcd") << "there is room: nobody is held off any more";
}

TEST_F(AdapterLineTest, ClientsWithoutRequestsHoldNoLease) {
  adapters_.states["a"] = State::kReady;
  FairQueue::Client& a = push("a");
  poll();
  EXPECT_EQ(adapters_.leases["a"], 1);
  queue_.remove(a, *a.waiting().begin());
  line_.update(a, now_, last_);
  EXPECT_EQ(adapters_.leases["a"], 0);
  EXPECT_EQ(line_.leases(), 0u);
}

}  // namespace
}  // namespace lorax
