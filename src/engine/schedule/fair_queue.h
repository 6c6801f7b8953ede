// Whose turn it is: requests that wait, by client (an adapter of a flow), served by the Virtual
// Token Counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024). A
// client's counter grows with the service that it is given; the waiting client with the lowest
// counter is next. One that comes back after a rest is lifted to the others, so that it cannot save
// service up. Between two clients that wait all the time, service differs by no more than what one
// admission and the requests in flight take.
//
// Of clients with equal counters, one that has nothing running is first, then the one that has been
// known longest. So one that joins is first in line, unless others wait that have nothing at all.
//
// Beyond the paper: a client may wait for something other than its turn (its adapter); it is then
// not ready, is passed over, and is lifted again once it is ready.
//
// A flow is whoever several clients work for, such as an API key: they share one client's service.
// A token costs each of them as many times as they are. Clients without a flow stand for
// themselves.
//
// All functions take O(log clients) or less. Host logic only, one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>

#include "engine/schedule/generation_service.h"

namespace lorax {

class FairQueue {
 public:
  // Of the clients of one flow.
  struct Flow {
    int64_t clients = 0;  // known
    int64_t busy = 0;     // that wait or run
    int64_t running = 0;  // requests
  };

  class Client;
  // Whether `a` is served before `b`.
  struct Before {
    bool operator()(const Client* a, const Client* b) const {
      if (a->counter_ != b->counter_) return a->counter_ < b->counter_;
      const bool a_runs = a->running_ > 0;
      const bool b_runs = b->running_ > 0;
      return a_runs != b_runs ? b_runs : a->number_ < b->number_;
    }
  };
  using Order = std::set<Client*, Before>;

  class Client {
   public:
    // `key`: in clients_. `flow`: null for a client without one; lives longer.
    Client(std::string key, std::string name, std::string flow_name, Flow* flow, uint64_t number);

    const std::string& name() const { return name_; }
    const std::string& flow_name() const { return flow_name_; }
    // Requests of its flow.
    int64_t running_in_flow() const { return flow_ != nullptr ? flow_->running : running_; }
    bool is_of_flow_of(const Client& other) const {
      return this == &other || (flow_ != nullptr && flow_ == other.flow_);
    }
    int64_t counter() const { return counter_; }
    bool is_ready() const { return ready_; }
    int64_t running() const { return running_; }  // requests
    // Requests that wait, in the order of their ids: one that is put back is first again.
    const std::set<RequestId>& waiting() const { return waiting_; }

    // The scheduler's note: those of waiting() that have run before.
    int64_t resumable = 0;

   private:
    friend class FairQueue;
    // A place in an order, made with the client: to take it needs no memory, so that what must be
    // put in order can be, also where none is left.
    class Place {
     public:
      explicit Place(Client* client);
      void take(Order& order) {
        if (node_) order.insert(std::move(node_));
      }
      // Whether it was taken.
      bool leave(Order& order, Client* client) {
        if (node_) return false;
        node_ = order.extract(client);
        return true;
      }

     private:
      Order::node_type node_;  // while it is not taken
    };

    const std::string key_;
    const std::string name_;
    const std::string flow_name_;
    Flow* const flow_;
    const uint64_t number_;  // breaks ties
    bool busy_ = false;
    int64_t counter_ = 0;
    int64_t running_ = 0;
    bool ready_ = false;
    std::set<RequestId> waiting_;
    Place place_waiting_{this};
    Place place_ready_{this};
    Place place_resting_{this};
  };

  // In the order in which they became known.
  struct ByNumber {
    bool operator()(const Client* a, const Client* b) const { return a->number_ < b->number_; }
  };

  // These two may throw std::bad_alloc, and have changed nothing then; all others need no memory.
  // Made if it is not known.
  Client& client(const std::string& name, const std::string& flow = {});
  void push(Client& client, RequestId request);
  // Precondition: the request waits.
  void remove(Client& client, RequestId request);
  void set_ready(Client& client, bool ready);
  // One request more of the client runs, or one less. While some do, it is not forgotten.
  void start(Client& client);
  void stop(Client& client);
  // Service given; cost may be 0.
  void charge(Client& client, int64_t cost);
  // To be called when a client may have nothing left: it is forgotten once that changes nothing.
  void rest(Client& client);

  // Of the clients with waiting requests, the one whose turn it is; null if none is ready.
  Client* first_ready() const { return ready_.empty() ? nullptr : *ready_.begin(); }
  // All clients with waiting requests.
  const Order& waiting() const { return waiting_; }
  int64_t waiting_requests() const { return waiting_requests_; }
  size_t known_clients() const { return clients_.size(); }
  size_t known_flows() const { return flows_.size(); }

 private:
  // Leaves the sets while its counter changes.
  template <typename Change>
  void reorder(Client& client, const Change& change);
  // Where one that joins the others begins.
  int64_t level() const;
  void lift(Client& client);
  void leave_ready(Client& client);
  void forget_resting();
  static void note_busy(Client& client);
  static std::string key_of(const std::string& name, const std::string& flow);

  std::unordered_map<std::string, Flow> flows_;  // that clients_ has clients of
  std::unordered_map<std::string, std::unique_ptr<Client>> clients_;
  Order waiting_;
  Order ready_;
  Order resting_;                // with nothing that waits or runs
  Client* last_left_ = nullptr;  // the last one that left ready_ with nothing to wait for
  int64_t floor_ = 0;            // no client that joins begins below it
  uint64_t last_number_ = 0;
  int64_t waiting_requests_ = 0;
};

}  // namespace lorax
