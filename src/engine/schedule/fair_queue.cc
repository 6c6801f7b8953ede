#include "engine/schedule/fair_queue.h"

#include <algorithm>

#include "base/check.h"

namespace lorax {

// Neither holds a line feed.
std::string FairQueue::key_of(const std::string& name, const std::string& flow) {
  return flow.empty() ? name : flow + '\n' + name;
}

FairQueue::Client::Client(std::string key, std::string name, std::string flow_name, Flow* flow,
                          uint64_t number)
    : key_(std::move(key)),
      name_(std::move(name)),
      flow_name_(std::move(flow_name)),
      flow_(flow),
      number_(number) {}

FairQueue::Client::Place::Place(Client* client) {
  Order order = {client};
  node_ = order.extract(order.begin());
}

FairQueue::Client& FairQueue::client(const std::string& name, const std::string& flow) {
  std::string key = key_of(name, flow);
  if (const auto known = clients_.find(key); known != clients_.end()) {
    known->second->place_resting_.leave(resting_, known->second.get());
    return *known->second;
  }
  Flow* const members = flow.empty() ? nullptr : &flows_[flow];
  try {
    auto made = std::make_unique<Client>(key, name, flow, members, last_number_ + 1);
    Client& client = *clients_.emplace(std::move(key), std::move(made)).first->second;
    ++last_number_;
    if (members != nullptr) ++members->clients;
    return client;
  } catch (...) {
    if (members != nullptr && members->clients == 0) flows_.erase(flow);
    throw;
  }
}

template <typename Change>
void FairQueue::reorder(Client& client, const Change& change) {
  const bool waits = client.place_waiting_.leave(waiting_, &client);
  const bool is_ready = client.place_ready_.leave(ready_, &client);
  change();
  if (waits) client.place_waiting_.take(waiting_);
  if (is_ready) client.place_ready_.take(ready_);
}

int64_t FairQueue::level() const {
  if (!ready_.empty()) return std::max(floor_, (*ready_.begin())->counter_);
  return std::max(floor_, last_left_ != nullptr ? last_left_->counter_ : 0);
}

void FairQueue::lift(Client& client) {
  floor_ = level();
  if (client.counter_ >= floor_) return;
  reorder(client, [&] { client.counter_ = floor_; });
}

void FairQueue::push(Client& client, RequestId request) {
  LORAX_CHECK(client.waiting_.insert(request).second);
  if (client.waiting_.size() == 1) {
    lift(client);
    client.place_waiting_.take(waiting_);
    if (client.ready_) client.place_ready_.take(ready_);
  }
  ++waiting_requests_;
  note_busy(client);
}

void FairQueue::remove(Client& client, RequestId request) {
  LORAX_CHECK(client.waiting_.erase(request) == 1);
  --waiting_requests_;
  note_busy(client);
  if (!client.waiting_.empty()) return;
  client.place_waiting_.leave(waiting_, &client);
  leave_ready(client);
}

void FairQueue::set_ready(Client& client, bool ready) {
  if (client.ready_ == ready) return;
  if (ready && !client.waiting_.empty()) {
    lift(client);
    client.place_ready_.take(ready_);
  } else if (!ready) {
    leave_ready(client);
  }
  client.ready_ = ready;
}

void FairQueue::start(Client& client) {
  reorder(client, [&] { ++client.running_; });
  if (client.flow_ != nullptr) ++client.flow_->running;
  note_busy(client);
}

void FairQueue::stop(Client& client) {
  LORAX_CHECK(client.running_ > 0);
  reorder(client, [&] { --client.running_; });
  if (client.flow_ != nullptr) --client.flow_->running;
  note_busy(client);
}

void FairQueue::note_busy(Client& client) {
  const bool is_busy = client.running_ > 0 || !client.waiting_.empty();
  if (client.flow_ == nullptr || client.busy_ == is_busy) return;
  client.busy_ = is_busy;
  client.flow_->busy += is_busy ? 1 : -1;
}

void FairQueue::leave_ready(Client& client) {
  floor_ = level();
  if (client.place_ready_.leave(ready_, &client)) last_left_ = &client;
}

void FairQueue::charge(Client& client, int64_t cost) {
  const int64_t share = client.flow_ != nullptr ? std::max<int64_t>(1, client.flow_->busy) : 1;
  reorder(client, [&] { client.counter_ += cost * share; });
}

void FairQueue::rest(Client& client) {
  if (!client.waiting_.empty() || client.running_ > 0) return;
  client.place_resting_.take(resting_);
  forget_resting();
}

// One that is at or below the level would begin there anyway.
void FairQueue::forget_resting() {
  const int64_t now = level();
  while (!resting_.empty() && (*resting_.begin())->counter_ <= now) {
    Client* client = *resting_.begin();
    client->place_resting_.leave(resting_, client);
    if (client == last_left_) {
      floor_ = std::max(floor_, client->counter_);
      last_left_ = nullptr;
    }
    if (client->flow_ != nullptr && --client->flow_->clients == 0) {
      flows_.erase(client->flow_name_);
    }
    clients_.erase(clients_.find(client->key_));
  }
}

}  // namespace lorax
