#include "engine/schedule/adapter_line.h"

#include <utility>
#include <vector>

#include "base/check.h"

namespace lorax {

using State = AdapterLease::State;

AdapterLine::AdapterLine(AdapterExchange& exchange, FairQueue& queue,
                         const AdapterLineOptions& options)
    : exchange_(exchange), queue_(queue), options_(options) {}

AdapterLine::Line* AdapterLine::find(Client& client) {
  const auto it = lines_.find(&client);
  return it == lines_.end() ? nullptr : &it->second;
}

const AdapterLine::Line* AdapterLine::find(Client& client) const {
  const auto it = lines_.find(&client);
  return it == lines_.end() ? nullptr : &it->second;
}

bool AdapterLine::covers_first(const Client& client, const Line& line) {
  return line.lease != nullptr && *client.waiting().begin() <= line.covers;
}

bool AdapterLine::holds_adapter(const Client& client, const Line& line) {
  return client.running() > 0 || client.resumable > 0 ||
         (line.lease != nullptr && line.state == State::kReady);
}

bool AdapterLine::counts_as_ahead(const Client& client, const Line& line, Time now) const {
  if (line.lease == nullptr || client.running() > 0 || client.resumable > 0) return false;
  return line.state != State::kLoading || now - line.asked_at < options_.slow_after;
}

void AdapterLine::ask(Client& client, Time now, RequestId last) {
  Line& line = lines_[&client];
  line.lease = exchange_.request(client.name());
  line.covers = last;
  line.asked_at = now;
  line.state = line.lease->state();
}

void AdapterLine::set_readiness(Client& client) {
  bool ready = false;
  if (!client.waiting().empty()) {
    const Line* line = find(client);
    ready = client.resumable > 0 || (line != nullptr && !line->draining &&
                                     covers_first(client, *line) && line->state == State::kReady);
  }
  queue_.set_ready(client, ready);
}

void AdapterLine::update(Client& client, Time now, RequestId last) {
  if (client.name().empty()) return queue_.set_ready(client, true);
  Line* line = find(client);
  if (client.waiting().empty()) {
    if (line != nullptr && (client.running() == 0 || !line->draining)) lines_.erase(&client);
  } else if (client.resumable == 0 && (line == nullptr || !covers_first(client, *line))) {
    const bool draining = line != nullptr && line->draining;
    const bool had_lease = line != nullptr && line->lease != nullptr;
    if ((client.running() > 0 || had_lease) && !draining) ask(client, now, last);
  }
  set_readiness(client);
}

std::shared_ptr<AdapterLease> AdapterLine::lease(Client& client) const {
  if (client.name().empty()) return nullptr;
  const Line* line = find(client);
  LORAX_CHECK(line != nullptr && covers_first(client, *line) && line->state == State::kReady);
  return line->lease;
}

void AdapterLine::poll(Time now, RequestId last, const Failed& failed) {
  look_at_leases(failed);
  drain(now, last);
  ask_ahead(now, last);
}

void AdapterLine::look_at_leases(const Failed& failed) {
  std::vector<Client*> lost;
  for (auto& [client, line] : lines_) {
    if (line.lease == nullptr || line.state == State::kReady) continue;
    line.state = line.lease->state();
    if (line.state == State::kReady) set_readiness(*client);
    if (line.state == State::kFailed) lost.push_back(client);
  }
  for (Client* client : lost) {
    Line& line = *find(*client);
    const std::shared_ptr<AdapterLease> lease = std::exchange(line.lease, nullptr);
    const RequestId covers = line.covers;
    if (!line.draining) lines_.erase(client);
    failed(*client, covers, lease->error());
  }
}

void AdapterLine::ask_ahead(Time now, RequestId last) {
  int64_t ahead = 0;
  for (const auto& [client, line] : lines_) ahead += counts_as_ahead(*client, line, now) ? 1 : 0;
  // Asking may make a client ready, which may lift it: so first who, then the asking.
  std::vector<Client*> next;
  for (Client* client : queue_.waiting()) {
    if (ahead >= options_.ahead) break;
    if (client->name().empty() || client->resumable > 0) continue;
    const Line* line = find(*client);
    if (line != nullptr && (line->draining || line->lease != nullptr)) continue;
    next.push_back(client);
    ahead += client->running() > 0 ? 0 : 1;
  }
  for (Client* client : next) {
    ask(*client, now, last);
    set_readiness(*client);
  }
}

void AdapterLine::drain(Time now, RequestId last) {
  constexpr FairQueue::Before before;
  Client* blocked = nullptr;
  bool holders_drain = false;
  for (const auto& [client, line] : lines_) {
    holders_drain |= line.draining && holds_adapter(*client, line);
    const bool no_room = line.lease != nullptr && line.state == State::kNoRoom;
    if (no_room && (blocked == nullptr || before(client, blocked))) blocked = client;
  }
  if (blocked == nullptr) return stop_draining(now, last);
  if (holders_drain) return;
  Client* most_served = nullptr;
  for (const auto& [client, line] : lines_) {
    if (line.draining || !before(blocked, client) || !holds_adapter(*client, line)) continue;
    if (most_served == nullptr || before(most_served, client)) most_served = client;
  }
  if (most_served == nullptr) return;
  Line& line = *find(*most_served);
  line.draining = true;
  line.lease = nullptr;
  set_readiness(*most_served);
}

void AdapterLine::stop_draining(Time now, RequestId last) {
  std::vector<Client*> drained;
  for (auto& [client, line] : lines_) {
    if (std::exchange(line.draining, false)) drained.push_back(client);
  }
  for (Client* client : drained) {
    if (find(*client)->lease == nullptr) lines_.erase(client);
    update(*client, now, last);
  }
}

}  // namespace lorax
