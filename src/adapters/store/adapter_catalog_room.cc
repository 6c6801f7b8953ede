// The part of the catalog that decides about room: who may be read or uploaded next, and what
// gives way to it.
#include <algorithm>
#include <new>
#include <utility>

#include "adapters/store/adapter_catalog.h"
#include "base/check.h"

namespace lorax {

using Stage = AdapterLoad::Stage;

namespace {

AdapterLoad& item(AdapterLoad& load) { return load; }
AdapterEntry& item(AdapterEntry* entry) { return *entry; }

// The first of the queue that fits. One that does not fit lets younger ones pass, so that a large
// adapter does not hold up small ones; but only so often, so that they do not starve it.
template <typename List, typename Fits>
typename List::iterator first_fitting(List& queue, Fits fits) {
  constexpr int kLookAhead = 64;
  constexpr int kMaxOvertaken = 64;
  int passed = 0;
  for (auto it = queue.begin(); it != queue.end(); ++it, ++passed) {
    if (fits(item(*it))) {
      std::for_each(queue.begin(), it, [](auto& other) { ++item(other).overtaken; });
      return it;
    }
    if (passed == kLookAhead || item(*it).overtaken >= kMaxOvertaken) break;
  }
  return queue.end();
}

}  // namespace

// --- The keeper ------------------------------------------------------------------------------

AdapterRemains AdapterCatalog::take_dropped() {
  AdapterRemains fresh;
  fresh.reserve(entries_.size(), static_cast<size_t>(options_.slots));
  return std::exchange(dropped_, std::move(fresh));
}

AdapterLoad* AdapterCatalog::claim_read(AdapterRemains& remains) {
  if (reading_ >= options_.loader_threads) return nullptr;
  const auto it = first_fitting(
      to_read_, [this](const AdapterLoad& load) { return host_.fits(load.probe.host_bytes); });
  if (it == to_read_.end()) return nullptr;
  remains.host.reserve(entries_.size());
  AdapterLoad& load = *it;
  enter(load, Stage::kClaimed);
  ++reading_;
  while (host_.free() + remains.host_bytes < load.probe.host_bytes) {
    evict_host(*host_.least_recent(), remains);
  }
  return &load;
}

void AdapterCatalog::grant(AdapterLoad& load) {
  if (give_up(load)) {
    --reading_;
    return;
  }
  host_.reserve(load.probe.host_bytes);
  enter(load, Stage::kGranted);
}

AdapterEntry* AdapterCatalog::claim_upload(AdapterRemains& remains) {
  const auto it =
      first_fitting(to_upload_, [this](const AdapterEntry& entry) { return device_fits(entry); });
  if (it == to_upload_.end()) return nullptr;
  AdapterEntry& entry = **it;
  to_upload_.erase(it);
  entry.uploading = true;
  const uint64_t need = device_need(entry);
  while (device_.free() + remains.device_bytes < need ||
         (free_slots_.empty() && remains.slots.empty())) {
    evict_resident(*device_.least_recent(), remains);
  }
  return &entry;
}

bool AdapterCatalog::begin_upload(AdapterEntry& entry) {
  if (entry.waiters.empty()) {
    end_upload(entry, 0);
    update(entry);
    return false;
  }
  device_.reserve(device_need(entry));
  entry.slot = free_slots_.back();
  free_slots_.pop_back();
  return true;
}

void AdapterCatalog::end_upload(AdapterEntry& entry, double seconds) {
  entry.uploading = false;
  entry.overtaken = 0;
  stats_.device.load_seconds += seconds;
}

void AdapterCatalog::uploaded(AdapterEntry& entry, std::unique_ptr<ResidentAdapter> resident,
                              double seconds) {
  end_upload(entry, seconds);
  ++stats_.device.loads;
  entry.resident = std::move(resident);
  device_.add(entry.device_place, device_need(entry));
  for (AdapterLoad* load : std::exchange(entry.waiters, {})) settle_ready(*load, entry);
  update(entry);
}

void AdapterCatalog::upload_failed(AdapterEntry& entry, std::string_view message, double seconds) {
  end_upload(entry, seconds);
  ++stats_.device.failed_loads;
  device_.release(device_need(entry));
  free_slots_.push_back(std::exchange(entry.slot, -1));
  fail_waiters(entry, message);
}

void AdapterCatalog::settle_burial(const AdapterRemains& remains) {
  host_.release(remains.host_bytes);
  device_.release(remains.device_bytes);
  free_slots_.insert(free_slots_.end(), remains.slots.begin(), remains.slots.end());
}

// --- The queue for the device ----------------------------------------------------------------

uint64_t AdapterCatalog::device_need(const AdapterEntry& entry) const {
  return options_.unified_memory ? 0 : entry.host->device_bytes();
}

bool AdapterCatalog::device_fits(const AdapterEntry& entry) const {
  return device_.fits(device_need(entry)) &&
         (!free_slots_.empty() || device_.least_recent() != nullptr);
}

void AdapterCatalog::to_device(AdapterLoad& load, AdapterEntry& entry) {
  if (stopped_) {
    settle_failed(load, say("adapter '{}': the server is shutting down", load.id));
    update(entry);
  } else if (const uint64_t need = device_need(entry); need > device_.budget()) {
    ++stats_.device.failed_loads;
    settle_failed(load, say("adapter '{}' needs {} bytes of device memory, more than all that "
                            "adapters may take ({} bytes)",
                            load.id, need, device_.budget()));
    update(entry);
  } else if (std::list<AdapterEntry*> place; !make_upload_places(entry, place)) {
    ++stats_.device.failed_loads;
    settle_failed(load, std::string(kNoMemory));
    update(entry);
  } else {
    // A later request finds the entry by its name, if that need not be looked at again.
    no_more_joining(load);
    enter(load, Stage::kToUpload);
    load.entry = &entry;
    if (entry.waiters.empty() && !entry.uploading) to_upload_.splice(to_upload_.end(), place);
    entry.waiters.push_back(&load);
    update(entry);
  }
}

bool AdapterCatalog::make_upload_places(AdapterEntry& entry, std::list<AdapterEntry*>& place) {
  try {
    if (entry.waiters.size() == entry.waiters.capacity()) {
      entry.waiters.reserve(2 * entry.waiters.size() + 1);
    }
    place.push_back(&entry);
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

void AdapterCatalog::leave_upload_queue(AdapterLoad& load) {
  AdapterEntry& entry = *load.entry;
  std::erase(entry.waiters, &load);
  if (!entry.waiters.empty() || entry.uploading) return;
  to_upload_.remove(&entry);
  entry.overtaken = 0;
  update(entry);
}

void AdapterCatalog::fail_waiters(AdapterEntry& entry, std::string_view reason) {
  for (AdapterLoad* load : std::exchange(entry.waiters, {})) {
    settle_failed(*load, say("adapter '{}': {}", load->id, reason));
  }
  update(entry);
}

// --- Who stays and who goes ------------------------------------------------------------------

void AdapterCatalog::hold(AdapterEntry& entry, int count) {
  entry.holds += count;
  host_.touch(entry.host_place);
  update(entry);
}

void AdapterCatalog::release(AdapterEntry& entry, int count) {
  entry.holds -= count;
  LORAX_CHECK(entry.holds >= 0);
  host_.touch(entry.host_place);
  update(entry);
}

void AdapterCatalog::update(AdapterEntry& entry) {
  const bool awaited = entry.uploading || !entry.waiters.empty();
  if (entry.names.empty() && entry.holds == 0 && !awaited) {
    if (entry.resident != nullptr) take_resident(entry, dropped_, stats_.device.dropped);
    if (entry.host != nullptr) take_host(entry, dropped_, stats_.host.dropped);
    erase_if_gone(entry);
    return;
  }
  const bool host_in_use = awaited || (options_.unified_memory && entry.holds > 0);
  host_.set_idle(entry.host_place, !host_in_use);
  device_.set_idle(entry.device_place, entry.holds == 0);
}

void AdapterCatalog::take_host(AdapterEntry& entry, AdapterRemains& remains, uint64_t& counter) {
  remains.host_bytes += entry.host_place.bytes;
  remains.host.push_back(std::move(entry.host));
  host_.remove(entry.host_place);
  ++counter;
}

void AdapterCatalog::take_resident(AdapterEntry& entry, AdapterRemains& remains,
                                   uint64_t& counter) {
  remains.device_bytes += entry.device_place.bytes;
  remains.slots.push_back(std::exchange(entry.slot, -1));
  remains.resident.push_back(std::move(entry.resident));
  device_.remove(entry.device_place);
  ++counter;
}

void AdapterCatalog::evict_host(AdapterEntry& entry, AdapterRemains& remains) {
  if (options_.unified_memory && entry.resident != nullptr) {
    take_resident(entry, remains, stats_.device.evictions);
  }
  take_host(entry, remains, stats_.host.evictions);
  erase_if_gone(entry);
}

void AdapterCatalog::evict_resident(AdapterEntry& entry, AdapterRemains& remains) {
  take_resident(entry, remains, stats_.device.evictions);
  erase_if_gone(entry);
}

void AdapterCatalog::erase_if_gone(AdapterEntry& entry) {
  if (entry.host != nullptr || entry.resident != nullptr) return;
  for (const std::string& name : entry.names) names_.erase(name);
  entries_.erase(entries_.find(entry.digest));
}

}  // namespace lorax
