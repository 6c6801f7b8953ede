#include "engine/schedule/fair_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>

namespace lorax {
namespace {

using Client = FairQueue::Client;

// A client with a waiting request, ready to be served.
Client& backlogged(FairQueue& queue, const std::string& name, RequestId id) {
  Client& client = queue.client(name);
  queue.push(client, id);
  queue.set_ready(client, true);
  return client;
}

TEST(FairQueueTest, TheLowestCounterIsNextAndTheFirstKnownAmongEquals) {
  FairQueue queue;
  Client& a = backlogged(queue, "a", 1);
  Client& b = backlogged(queue, "b", 2);
  EXPECT_EQ(queue.first_ready(), &a);
  queue.charge(a, 10);
  EXPECT_EQ(queue.first_ready(), &b);
  queue.charge(b, 11);
  EXPECT_EQ(queue.first_ready(), &a);
  queue.charge(a, 1);
  EXPECT_EQ(queue.first_ready(), &a);
  queue.charge(a, 1);
  EXPECT_EQ(queue.first_ready(), &b);
}

TEST(FairQueueTest, AmongEqualsOneThatHasNothingRunningIsNext) {
  FairQueue queue;
  Client& a = backlogged(queue, "a", 1);
  queue.start(a);
  Client& b = backlogged(queue, "b", 2);
  EXPECT_EQ(b.counter(), a.counter());
  EXPECT_EQ(queue.first_ready(), &b);
  queue.start(b);
  EXPECT_EQ(queue.first_ready(), &a);
  queue.stop(b);
  queue.charge(b, 1);
  EXPECT_EQ(queue.first_ready(), &a);
  queue.charge(a, 1);
  EXPECT_EQ(queue.first_ready(), &b);
  queue.stop(a);
  EXPECT_EQ(queue.first_ready(), &a);
}

TEST(FairQueueTest, RequestsOfAClientKeepTheOrderOfTheirIds) {
  FairQueue queue;
  Client& a = backlogged(queue, "a", 5);
  queue.push(a, 9);
  queue.remove(a, 5);
  queue.push(a, 7);
  queue.push(a, 5);  // put back
  EXPECT_EQ(std::vector<RequestId>(a.waiting().begin(), a.waiting().end()),
            (std::vector<RequestId>{5, 7, 9}));
  EXPECT_EQ(queue.waiting_requests(), 3);
}

TEST(FairQueueTest, ANewcomerIsLiftedToTheLowestThatWaits) {
  FairQueue queue;
  Client& a = backlogged(queue, "a", 1);
  Client& b = backlogged(queue, "b", 2);
  queue.charge(a, 100);
  queue.charge(b, 70);
  Client& c = backlogged(queue, "c", 3);
  EXPECT_EQ(c.counter(), 70);
  EXPECT_EQ(queue.first_ready(), &b);
}

TEST(FairQueueTest, WhereNobodyWaitsTheLastThatLeftIsTheLevel) {
  FairQueue queue;
  Client& a = backlogged(queue, "a", 1);
  queue.remove(a, 1);
  queue.start(a);
  queue.charge(a, 50);  // while it runs
  Client& b = backlogged(queue, "b", 2);
  EXPECT_EQ(b.counter(), 50);
}

TEST(FairQueueTest, ServiceIsNotSavedUp) {
  FairQueue queue;
  Client& a = backlogged(queue, "a", 1);
  Client& b = backlogged(queue, "b", 2);
  queue.charge(a, 5);
  queue.remove(a, 1);
  queue.start(a);
  queue.charge(b, 1000);
  queue.push(a, 3);
  EXPECT_EQ(a.counter(), 1000);
}

TEST(FairQueueTest, DebtsAreKept) {
  FairQueue queue;
  Client& a = backlogged(queue, "a", 1);
  Client& b = backlogged(queue, "b", 2);
  queue.charge(a, 1000);
  queue.remove(a, 1);
  queue.rest(a);
  EXPECT_EQ(queue.known_clients(), 2u);
  queue.charge(b, 10);
  Client& again = queue.client("a");
  queue.push(again, 3);
  EXPECT_EQ(again.counter(), 1000);
  EXPECT_EQ(queue.first_ready(), &b);
}

TEST(FairQueueTest, WhoIsNotReadyIsPassedOverAndLiftedOnceReady) {
  FairQueue queue;
  Client& a = queue.client("a");
  queue.push(a, 1);
  EXPECT_EQ(queue.first_ready(), nullptr);
  Client& b = backlogged(queue, "b", 2);
  queue.charge(b, 30);
  EXPECT_EQ(queue.first_ready(), &b);
  EXPECT_EQ(*queue.waiting().begin(), &a);
  queue.set_ready(a, true);
  EXPECT_EQ(a.counter(), 30);
  EXPECT_EQ(queue.first_ready(), &a);
  queue.set_ready(a, false);
  EXPECT_EQ(queue.first_ready(), &b);
}

TEST(FairQueueTest, RestingClientsAreForgottenOnceOthersHaveCaughtUp) {
  FairQueue queue;
  Client& a = backlogged(queue, "a", 1);
  queue.charge(a, 10);
  queue.remove(a, 1);
  Client& b = backlogged(queue, "b", 2);
  queue.rest(a);  // b begins where it stands
  EXPECT_EQ(b.counter(), 10);
  EXPECT_EQ(queue.known_clients(), 1u);
  Client& c = backlogged(queue, "c", 3);
  queue.charge(c, 500);
  queue.remove(c, 3);
  queue.rest(c);
  EXPECT_EQ(queue.known_clients(), 2u);
  queue.charge(b, 501);
  queue.remove(b, 2);
  queue.rest(b);
  EXPECT_EQ(queue.known_clients(), 0u);
  EXPECT_EQ(backlogged(queue, "d", 4).counter(), 511);  // the level is not forgotten
}

// Clients that always wait differ by one charge at most.
TEST(FairQueueTest, BackloggedClientsStayTogether) {
  FairQueue queue;
  std::vector<Client*> clients;
  for (int i = 0; i < 2000; ++i) {
    clients.push_back(&backlogged(queue, std::to_string(i), static_cast<RequestId>(i) + 1));
  }
  std::mt19937 random(1);
  for (int i = 0; i < 100000; ++i) queue.charge(*queue.first_ready(), 1 + random() % 40);
  int64_t low = clients.front()->counter();
  int64_t high = low;
  for (const Client* client : clients) {
    low = std::min(low, client->counter());
    high = std::max(high, client->counter());
  }
  EXPECT_LE(high - low, 40);
  EXPECT_GT(low, 500);
}

// One flow with three clients and one with a single client get equal service, as do two clients
// without a flow.
TEST(FairQueueTest, FlowsAreServedAlikeHoweverManyClientsTheyHave) {
  FairQueue queue;
  std::map<std::string, int64_t> served;
  RequestId id = 0;
  for (const auto& [name, flow] : std::vector<std::pair<std::string, std::string>>{
           {"a", "many"}, {"b", "many"}, {"c", "many"}, {"a", "one"}}) {
    Client& client = queue.client(name, flow);
    for (int i = 0; i < 1000; ++i) queue.push(client, ++id);
    queue.set_ready(client, true);
  }
  EXPECT_EQ(queue.known_flows(), 2u);
  for (int i = 0; i < 900; ++i) {
    Client& next = *queue.first_ready();
    queue.remove(next, *next.waiting().begin());
    queue.start(next);
    queue.charge(next, 10);
    served[next.flow_name()] += 10;
    served[next.flow_name() + next.name()] += 10;
    queue.stop(next);
  }
  const auto count = [&](const char* flow) { return static_cast<double>(served[flow]); };
  EXPECT_NEAR(count("many"), count("one"), 60);
  EXPECT_NEAR(count("manya"), count("manyc"), 30);
}

TEST(FairQueueTest, FlowsAreForgottenWithTheirClients) {
  FairQueue queue;
  for (const char* name : {"a", "b"}) {
    Client& client = queue.client(name, "flow");
    queue.push(client, 1);
    queue.start(client);
    queue.remove(client, 1);
    EXPECT_EQ(client.running_in_flow(), 1);
    queue.stop(client);
    queue.rest(client);
  }
  EXPECT_EQ(queue.known_clients(), 0u);
  EXPECT_EQ(queue.known_flows(), 0u);
}

}  // namespace
}  // namespace lorax
