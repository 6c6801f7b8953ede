#include "engine/fair_queue.h"

#include <algorithm>

#include "base/check.h"

namespace lorax {

FairQueue::Client& FairQueue::client(const std::string& name) {
  std::unique_ptr<Client>& client = clients_[name];
  if (client == nullptr) client = std::make_unique<Client>(name, ++last_number_);
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
}

void FairQueue::remove(Client& client, RequestId request) {
  LORAX_CHECK(client.waiting_.erase(request) == 1);
  --waiting_requests_;
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
}

void FairQueue::stop(Client& client) {
  LORAX_CHECK(client.running_ > 0);
  reorder(client, [&] { --client.running_; });
}

void FairQueue::leave_ready(Client& client) {
  floor_ = level();
  if (ready_.erase(&client) > 0) last_left_ = &client;
}

void FairQueue::charge(Client& client, int64_t cost) {
  reorder(client, [&] { client.counter_ += cost; });
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
    clients_.erase(clients_.find(client->name_));
  }
}

}  // namespace lorax
