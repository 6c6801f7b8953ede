// Adapters of clients that wait: asks for them ahead of their turn, and says who is ready. Host
// logic only, one thread.
//
// A lease that is ready takes memory from others, so few are held ahead: those of the clients that
// fairness serves next. One that loads for long does not count among them, lest a few slow adapters
// hold up all. Clients whose adapter is in use ask again for every admission, at no cost: so they
// get what is on disk by then.
//
// Room for a client that lacks it comes from draining: of the clients that hold adapters and whose
// turn comes later, the one that has been served most is given nothing new until its requests have
// ended; then, if that was not enough, the next.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "engine/schedule/adapter_exchange.h"
#include "engine/schedule/fair_queue.h"

namespace lorax {

struct AdapterLineOptions {
  int64_t ahead = 8;                          // leases of clients that have nothing running
  std::chrono::milliseconds slow_after{500};  // of those that load, longer ones don't count
};

class AdapterLine {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using Client = FairQueue::Client;
  // Waiting requests of `client` up to `last`, those that have run before excepted, cannot have
  // their adapter.
  using Failed = std::function<void(Client& client, RequestId last, const std::string& message)>;

  // Both must outlive this.
  AdapterLine(AdapterExchange& exchange, FairQueue& queue, const AdapterLineOptions& options);

  // Looks at the leases that were not ready, asks for more. `last`: the newest request.
  void poll(Time now, RequestId last, const Failed& failed);
  // Brings a client's readiness in line with its requests; to be called whenever those change.
  void update(Client& client, Time now, RequestId last);
  // The lease for the first request of a client that is ready and not resumable. Null for the base
  // model, whose name is "".
  std::shared_ptr<AdapterLease> lease(Client& client) const;

  size_t leases() const { return lines_.size(); }

 private:
  struct Line {
    std::shared_ptr<AdapterLease> lease;
    RequestId covers = 0;  // requests up to this one may use it
    Time asked_at;
    AdapterLease::State state = AdapterLease::State::kLoading;
    bool draining = false;
  };

  // Null if it has none.
  Line* find(Client& client);
  const Line* find(Client& client) const;
  static bool covers_first(const Client& client, const Line& line);
  static bool holds_adapter(const Client& client, const Line& line);
  bool counts_as_ahead(const Client& client, const Line& line, Time now) const;

  void ask(Client& client, Time now, RequestId last);
  void set_readiness(Client& client);
  void look_at_leases(const Failed& failed);
  void ask_ahead(Time now, RequestId last);
  void drain(Time now, RequestId last);
  void stop_draining(Time now, RequestId last);

  AdapterExchange& exchange_;
  FairQueue& queue_;
  const AdapterLineOptions options_;
  std::map<Client*, Line, FairQueue::ByNumber> lines_;  // of clients with a lease, or draining
};

}  // namespace lorax
