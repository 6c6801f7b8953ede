#include "adapters/store/adapter_catalog.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"

namespace lorax {

using Stage = AdapterLoad::Stage;

AdapterCatalog::AdapterCatalog(const AdapterStoreOptions& options)
    : options_(options),
      host_(options.host_budget),
      device_(options.unified_memory ? 0 : options.device_budget) {
  for (int slot = options.slots - 1; slot >= 0; --slot) free_slots_.push_back(slot);
  dropped_.reserve(0, free_slots_.size());
}

AdapterCatalog::~AdapterCatalog() {
  LORAX_CHECK(stats_.tickets == 0 && stats_.pins == 0,
              "{} tickets and {} pins outlive their adapter store", stats_.tickets, stats_.pins);
}

// --- Those who ask ---------------------------------------------------------------------------

AdapterLoad& AdapterCatalog::request(const std::string& id, Time now) {
  if (const auto it = joinable_.find(id); it != joinable_.end()) {
    ++stats_.requests;
    ++stats_.tickets;
    ++stats_.joined;
    ++it->second->tickets;
    return *it->second;
  }
  std::list<AdapterLoad> made(1);
  AdapterLoad& load = made.front();
  load.id = id;
  if (!stopped_) joinable_[id] = &load;
  // From here on nothing needs memory, or the load fails for want of it.
  load.self = made.begin();
  to_probe_.splice(to_probe_.end(), made);
  load.number = ++last_number_;
  load.tickets = 1;
  ++stats_.requests;
  ++stats_.tickets;
  ++stats_.waiting;
  if (stopped_) {
    ++stats_.abandoned;
    settle_failed(load, say("adapter '{}': the server is shutting down", id));
    return load;
  }
  if (const auto it = names_.find(id); it != names_.end()) {
    Name& name = it->second;
    load.force_read = name.must_read;
    if (!name.must_read && now - name.checked_at < options_.recheck_after) {
      found(load, *name.entry);
    }
  }
  return load;
}

bool AdapterCatalog::is_resident(const std::string& id) const {
  const auto it = names_.find(id);
  return it != names_.end() && !it->second.must_read && it->second.entry->resident != nullptr;
}

void AdapterCatalog::drop(AdapterLoad& load) {
  --stats_.tickets;
  --load.tickets;
  if (load.stage == Stage::kReady) release(*load.entry, 1);
  if (load.tickets > 0) return;
  switch (load.stage) {
    case Stage::kProbing:
    case Stage::kClaimed:
    case Stage::kReading:
      return;  // the thread that has it sees that nobody waits any more
    case Stage::kGranted:
      --reading_;
      host_.release(load.probe.host_bytes);
      ++stats_.abandoned;
      break;
    case Stage::kToProbe:
    case Stage::kToRead:
      ++stats_.abandoned;
      break;
    case Stage::kToUpload:
      leave_upload_queue(load);
      break;
    case Stage::kReady:
    case Stage::kFailed:
      break;
  }
  erase(load);
}

void AdapterCatalog::pin(AdapterEntry& entry) {
  ++stats_.pins;
  hold(entry, 1);
}

void AdapterCatalog::unpin(AdapterEntry& entry) {
  --stats_.pins;
  release(entry, 1);
}

bool AdapterCatalog::lacks_room(const AdapterLoad& load) const {
  if (load.stage == Stage::kToRead) return !host_.fits(load.probe.host_bytes);
  if (load.stage != Stage::kToUpload || load.entry->uploading) return false;
  return !device_fits(*load.entry);
}

void AdapterCatalog::refresh(const std::string& id) {
  if (const auto it = names_.find(id); it != names_.end()) it->second.must_read = true;
  if (const auto it = joinable_.find(id); it != joinable_.end()) {
    it->second->outdated = true;
    joinable_.erase(it);
  }
}

void AdapterCatalog::forget(const std::string& id) {
  refresh(id);
  const auto it = names_.find(id);
  if (it == names_.end()) return;
  AdapterEntry& entry = *it->second.entry;
  names_.erase(it);
  std::erase(entry.names, id);
  update(entry);
}

// --- Threads that look and read --------------------------------------------------------------

AdapterLoad* AdapterCatalog::next_probe() {
  if (to_probe_.empty()) return nullptr;
  AdapterLoad& load = to_probe_.front();
  enter(load, Stage::kProbing);
  ++in_threads_;
  return &load;
}

void AdapterCatalog::probed(AdapterLoad& load, AdapterProbe probe, Time now) {
  --in_threads_;
  if (give_up(load)) return;
  load.probe = std::move(probe);
  const auto it = names_.find(load.id);
  if (it != names_.end() && !load.force_read && it->second.fingerprint == load.probe.fingerprint) {
    it->second.checked_at = now;
    found(load, *it->second.entry);
  } else if (load.probe.host_bytes > host_.budget()) {
    ++stats_.host.failed_loads;
    settle_failed(load, say("adapter '{}' needs {} bytes of host memory, more than all that "
                            "adapters may take ({} bytes)",
                            load.id, load.probe.host_bytes, host_.budget()));
  } else {
    enter(load, Stage::kToRead);
  }
}

AdapterLoad* AdapterCatalog::next_read() {
  if (granted_.empty()) return nullptr;
  AdapterLoad& load = granted_.front();
  enter(load, Stage::kReading);
  ++in_threads_;
  return &load;
}

void AdapterCatalog::end_read(double seconds) {
  --in_threads_;
  --reading_;
  stats_.host.load_seconds += seconds;
}

AdapterEntry& AdapterCatalog::make_entry(const HostAdapter& host) {
  const auto known = entries_.find(host.digest());
  if (known != entries_.end()) {
    AdapterEntry& entry = *known->second;
    entry.names.reserve(entry.names.size() + 1);
    return entry;
  }
  auto made = std::make_unique<AdapterEntry>();
  made->digest = host.digest();
  made->names.reserve(1);
  dropped_.host.reserve(dropped_.host.size() + entries_.size() + 1);
  return *entries_.emplace(host.digest(), std::move(made)).first->second;
}

void AdapterCatalog::read(AdapterLoad& load, std::unique_ptr<HostAdapter>& host, double seconds,
                          Time now) {
  std::string id = load.id;
  const auto [name, is_new] = names_.try_emplace(load.id);
  AdapterEntry* made = nullptr;
  try {
    made = &make_entry(*host);
    made->host_place.make(*made);
    made->device_place.make(*made);
  } catch (...) {
    if (is_new) names_.erase(name);
    if (made != nullptr) erase_if_gone(*made);
    throw;
  }
  AdapterEntry& entry = *made;
  end_read(seconds);
  ++stats_.host.loads;
  const uint64_t bytes = host->host_bytes();
  host_.release(load.probe.host_bytes - bytes);
  if (entry.host == nullptr) {
    entry.host = std::move(host);
    host_.add(entry.host_place, bytes);
  } else {
    ++stats_.host.dropped;
    ++in_threads_;
  }
  publish_name(load, entry, name->second, id, now);
  if (load.tickets == 0) {
    erase(load);
    update(entry);
  } else if (entry.resident != nullptr) {
    settle_ready(load, entry);
  } else {
    to_device(load, entry);
  }
}

void AdapterCatalog::spare_destroyed(uint64_t bytes) {
  --in_threads_;
  host_.release(bytes);
}

void AdapterCatalog::changed_while_read(AdapterLoad& load, double seconds) {
  constexpr int kMaxReads = 3;
  end_read(seconds);
  host_.release(load.probe.host_bytes);
  if (give_up(load)) return;
  if (++load.reads < kMaxReads) {
    enter(load, Stage::kToProbe);
    return;
  }
  ++stats_.host.failed_loads;
  settle_failed(load, say("adapter '{}': its files keep changing while they are read", load.id));
}

void AdapterCatalog::probe_failed(AdapterLoad& load, std::string message) {
  --in_threads_;
  ++stats_.host.failed_loads;
  settle_failed(load, std::move(message));
}

void AdapterCatalog::read_failed(AdapterLoad& load, std::string message, double seconds) {
  end_read(seconds);
  host_.release(load.probe.host_bytes);
  ++stats_.host.failed_loads;
  settle_failed(load, std::move(message));
}

// --- The life of a load ----------------------------------------------------------------------

std::list<AdapterLoad>& AdapterCatalog::list_of(Stage stage) {
  switch (stage) {
    case Stage::kToProbe:
      return to_probe_;
    case Stage::kToRead:
      return to_read_;
    case Stage::kGranted:
      return granted_;
    default:
      return others_;
  }
}

void AdapterCatalog::enter(AdapterLoad& load, Stage stage) {
  std::list<AdapterLoad>& to = list_of(stage);
  to.splice(to.end(), list_of(load.stage), load.self);
  load.stage = stage;
}

void AdapterCatalog::erase(AdapterLoad& load) {
  if (!load.settled()) end_progress(load);
  list_of(load.stage).erase(load.self);
}

void AdapterCatalog::end_progress(const AdapterLoad& load) {
  --stats_.waiting;
  no_more_joining(load);
}

void AdapterCatalog::no_more_joining(const AdapterLoad& load) {
  const auto it = joinable_.find(load.id);
  if (it != joinable_.end() && it->second == &load) joinable_.erase(it);
}

bool AdapterCatalog::give_up(AdapterLoad& load) {
  if (load.tickets > 0 && !stopped_) return false;
  ++stats_.abandoned;
  settle_failed(load, say("adapter '{}': the server is shutting down", load.id));
  return true;
}

void AdapterCatalog::settle_ready(AdapterLoad& load, AdapterEntry& entry) {
  end_progress(load);
  enter(load, Stage::kReady);
  load.entry = &entry;
  hold(entry, load.tickets);
  settled_ = true;
}

void AdapterCatalog::settle_failed(AdapterLoad& load, std::string message) {
  end_progress(load);
  enter(load, Stage::kFailed);
  load.entry = nullptr;
  load.error = std::move(message);
  settled_ = true;
  if (load.tickets == 0) erase(load);
}

void AdapterCatalog::found(AdapterLoad& load, AdapterEntry& entry) {
  if (entry.resident != nullptr) {
    ++stats_.device.hits;
    settle_ready(load, entry);
  } else {
    ++stats_.host.hits;
    to_device(load, entry);
  }
}

void AdapterCatalog::publish_name(AdapterLoad& load, AdapterEntry& entry, Name& name,
                                  std::string& id, Time now) {
  if (name.number > load.number) return;  // a younger request has been served already
  AdapterEntry* const before = name.entry;
  name = {.entry = &entry,
          .fingerprint = std::move(load.probe.fingerprint),
          .checked_at = now,
          .number = load.number,
          .must_read = load.outdated};
  if (before == &entry) return;
  entry.names.push_back(std::move(id));
  if (before != nullptr) {
    std::erase(before->names, load.id);
    update(*before);
  }
}

void AdapterCatalog::stop() {
  stopped_ = true;
  while (!to_probe_.empty()) give_up(to_probe_.front());
  while (!to_read_.empty()) give_up(to_read_.front());
  while (!granted_.empty()) {
    --reading_;
    host_.release(granted_.front().probe.host_bytes);
    give_up(granted_.front());
  }
  while (!to_upload_.empty()) {
    AdapterEntry& entry = *to_upload_.front();
    to_upload_.pop_front();
    fail_waiters(entry, "the server is shutting down");
  }
}

bool AdapterCatalog::take_settled() { return std::exchange(settled_, false); }

AdapterStoreStats AdapterCatalog::stats() const {
  const auto fill = [](AdapterTierStats& stats, const AdapterTier& tier) {
    stats.budget_bytes = tier.budget();
    stats.bytes = tier.used();
    stats.adapters = tier.copies();
  };
  AdapterStoreStats stats = stats_;
  fill(stats.host, host_);
  fill(stats.device, device_);
  stats.slots = options_.slots;
  stats.slots_used = options_.slots - static_cast<int>(free_slots_.size());
  return stats;
}

}  // namespace lorax
