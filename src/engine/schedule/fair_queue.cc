#include "engine/schedule/fair_queue.h"

#include <algorithm>

#include "base/check.h"

namespace lorax {

// Neither holds a line feed.
std::string FairQueue::key_of(const std::string& name, const std::string& flow) {
  return flow.empty() ? name : flow + '\n' + name;
}

FairQueue::Client& FairQueue::client(const std::string& name, const std::string& flow) {
  std::unique_ptr<Client>& client = clients_[key_of(name, flow)];
  if (client == nullptr) {
    Flow* const members = flow.empty() ? nullptr : &flows_[flow];
    if (members != nullptr) ++members->clients;
    client = std::make_unique<Client>(name, flow, members, ++last_number_);
  }
  resting_.erase(client.get());
  return *client;
}

template <typename Change>
void FairQueue::reorder(Client& client, const Change& change) {
  const bool waits = waiting_.erase(&client) > 0;
  const bool is_ready = ready_.erase(&client) > 0;
  change();
  if (waits) waiting_.insert(&client);
  if (is_ready) ready_.insert(&client);
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
  if (client.waiting_.empty()) {
    lift(client);
    waiting_.insert(&client);
    if (client.ready_) ready_.insert(&client);
  }
  LORAX_CHECK(client.waiting_.insert(request).second);
  ++waiting_requests_;
  note_busy(client);
}

void FairQueue::remove(Client& client, RequestId request) {
  LORAX_CHECK(client.waiting_.erase(request) == 1);
  --waiting_requests_;
  note_busy(client);
  if (!client.waiting_.empty()) return;
  waiting_.erase(&client);
  leave_ready(client);
}

void FairQueue::set_ready(Client& client, bool ready) {
  if (client.ready_ == ready) return;
  if (ready && !client.waiting_.empty()) {
    lift(client);
    ready_.insert(&client);
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
  if (ready_.erase(&client) > 0) last_left_ = &client;
}

void FairQueue::charge(Client& client, int64_t cost) {
  const int64_t share = client.flow_ != nullptr ? std::max<int64_t>(1, client.flow_->busy) : 1;
  reorder(client, [&] { client.counter_ += cost * share; });
}

void FairQueue::rest(Client& client) {
  if (!client.waiting_.empty() || client.running_ > 0) return;
  resting_.insert(&client);
  forget_resting();
}

// One that is at or below the level would begin there anyway.
void FairQueue::forget_resting() {
  const int64_t now = level();
  while (!resting_.empty() && (*resting_.begin())->counter_ <= now) {
    Client* client = *resting_.begin();
    resting_.erase(resting_.begin());
    if (client == last_left_) {
      floor_ = std::max(floor_, client->counter_);
      last_left_ = nullptr;
    }
    if (client->flow_ != nullptr && --client->flow_->clients == 0) {
      flows_.erase(client->flow_name_);
    }
    clients_.erase(key_of(client->name_, client->flow_name_));
  }
}

}  // namespace lorax
