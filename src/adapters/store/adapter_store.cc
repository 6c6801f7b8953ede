#include "adapters/store/adapter_store.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <new>
#include <utility>

#include "base/error.h"
#include "base/out_of_memory.h"
#include "base/threads.h"

namespace lorax {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Calls the function for the adapter; the message of what it throws, or nothing.
template <typename Function>
std::string error_of_call(const std::string& id, Function&& function) noexcept {
  try {
    function();
    return {};
  } catch (...) {
    const std::exception_ptr error = std::current_exception();
    const std::string message = message_of(error);
    return is_out_of_memory(error) ? say("adapter '{}' finds no memory: {}", id, message) : message;
  }
}

// How long the keeper waits where there was no memory for its lists.
constexpr std::chrono::milliseconds kMemoryPause{20};

}  // namespace

// --- Pins and tickets ------------------------------------------------------------------------

AdapterPin::AdapterPin(AdapterPin&& other) noexcept
    : store_(other.store_), entry_(std::exchange(other.entry_, nullptr)) {}

AdapterPin& AdapterPin::operator=(AdapterPin&& other) noexcept {
  if (this == &other) return *this;
  reset();
  store_ = other.store_;
  entry_ = std::exchange(other.entry_, nullptr);
  return *this;
}

void AdapterPin::reset() {
  if (entry_ == nullptr) return;
  const std::lock_guard lock(store_->mutex_);
  store_->catalog_.unpin(*std::exchange(entry_, nullptr));
  store_->wake_threads();
}

AdapterTicket::AdapterTicket(AdapterTicket&& other) noexcept
    : store_(other.store_), load_(std::exchange(other.load_, nullptr)) {}

AdapterTicket& AdapterTicket::operator=(AdapterTicket&& other) noexcept {
  if (this == &other) return *this;
  reset();
  store_ = other.store_;
  load_ = std::exchange(other.load_, nullptr);
  return *this;
}

void AdapterTicket::reset() {
  if (load_ == nullptr) return;
  const std::lock_guard lock(store_->mutex_);
  store_->catalog_.drop(*std::exchange(load_, nullptr));
  store_->wake_threads();
}

AdapterTicket::State AdapterTicket::state() const {
  const std::lock_guard lock(store_->mutex_);
  return store_->state_of(*load_);
}

AdapterPin AdapterTicket::try_pin() const {
  const std::lock_guard lock(store_->mutex_);
  if (load_->stage != AdapterLoad::Stage::kReady) return {};
  store_->catalog_.pin(*load_->entry);
  return AdapterPin(*store_, *load_->entry);
}

// --- The store -------------------------------------------------------------------------------

AdapterStore::AdapterStore(AdapterBackend& backend, AdapterStoreOptions options)
    : backend_(backend), options_(std::move(options)), catalog_(options_) {
  if (options_.slots < 1) fail("adapters need at least one slot, not {}", options_.slots);
  if (options_.loader_threads < 1) {
    fail("adapters need at least one loader thread, not {}", options_.loader_threads);
  }
  threads_.reserve(static_cast<size_t>(options_.loader_threads) + 2);
  const auto start = [this](auto thread) {
    threads_.push_back(start_thread("adapters", [this, thread] { (this->*thread)(); }));
  };
  try {
    start(&AdapterStore::prober_thread);
    start(&AdapterStore::keeper_thread);
    for (int i = 0; i < options_.loader_threads; ++i) start(&AdapterStore::loader_thread);
  } catch (...) {
    shutdown();
    throw;
  }
}

AdapterStore::~AdapterStore() { shutdown(); }

void AdapterStore::shutdown() {
  {
    Lock lock(mutex_);
    catalog_.stop();
    prober_wake_.notify_all();
    loader_wake_.notify_all();
    keeper_wake_.notify_all();
    report(lock);
  }
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

AdapterTicket AdapterStore::request(const std::string& id) {
  const std::lock_guard lock(mutex_);
  AdapterLoad& load = catalog_.request(id, Clock::now());
  wake_threads();
  return AdapterTicket(*this, load);
}

AdapterTicket AdapterStore::request_ahead(const std::string& id) {
  {
    const std::lock_guard lock(mutex_);
    if (catalog_.is_resident(id)) return {};
  }
  return request(id);
}

void AdapterStore::refresh(const std::string& id) {
  const std::lock_guard lock(mutex_);
  catalog_.refresh(id);
}

void AdapterStore::forget(const std::string& id) {
  const std::lock_guard lock(mutex_);
  catalog_.forget(id);
  wake_threads();
}

void AdapterStore::wait(const AdapterTicket& ticket) {
  Lock lock(mutex_);
  changed_.wait(lock, [&] { return ticket.load_->settled(); });
}

std::vector<AdapterPin> AdapterStore::load_now(const std::vector<std::string>& ids) {
  std::vector<AdapterTicket> tickets;
  for (const std::string& id : ids) tickets.push_back(request(id));
  const auto stuck = [&](const AdapterTicket& ticket) {
    return keeper_rests_ && catalog_.quiet() &&
           state_of(*ticket.load_) == AdapterTicket::State::kNoRoom;
  };
  {
    Lock lock(mutex_);
    changed_.wait(lock, [&] {
      return std::ranges::all_of(tickets, [](const auto& t) { return t.load_->settled(); }) ||
             std::ranges::any_of(tickets, stuck);
    });
  }
  std::vector<AdapterPin> pins;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (tickets[i].state() == AdapterTicket::State::kFailed) throw Error(tickets[i].error());
    pins.push_back(tickets[i].try_pin());
    if (!pins.back()) {
      fail(
          "adapter '{}' does not fit into the memory for adapters ({} bytes, {} slots) beside "
          "those in use",
          ids[i], options_.unified_memory ? options_.host_budget : options_.device_budget,
          options_.slots);
    }
  }
  return pins;
}

AdapterStoreStats AdapterStore::stats() const {
  const std::lock_guard lock(mutex_);
  return catalog_.stats();
}

std::chrono::nanoseconds AdapterStore::stuck_for() const {
  const std::lock_guard lock(mutex_);
  const Clock::time_point since = std::min({probes_wait_since_, reads_wait_since_, keeping_since_});
  return since == kNever ? std::chrono::nanoseconds(0) : Clock::now() - since;
}

AdapterTicket::State AdapterStore::state_of(const AdapterLoad& load) const {
  switch (load.stage) {
    case AdapterLoad::Stage::kReady:
      return AdapterTicket::State::kReady;
    case AdapterLoad::Stage::kFailed:
      return AdapterTicket::State::kFailed;
    default:
      return catalog_.lacks_room(load) ? AdapterTicket::State::kNoRoom
                                       : AdapterTicket::State::kLoading;
  }
}

// --- Threads ---------------------------------------------------------------------------------

void AdapterStore::note_waiting(Progress progress) {
  const auto note = [](Clock::time_point& since, bool waits, bool goes_on) {
    if (!waits) {
      since = kNever;
    } else if (goes_on || since == kNever) {
      since = Clock::now();
    }
  };
  note(probes_wait_since_, catalog_.probes_queued(), progress == Progress::kProbe);
  note(reads_wait_since_, catalog_.reads_wait(), progress == Progress::kRead);
}

void AdapterStore::wake_threads() {
  note_waiting(Progress::kNone);
  if (catalog_.probes_queued()) prober_wake_.notify_one();
  if (catalog_.probes_queued() || catalog_.reads_granted()) loader_wake_.notify_all();
  if (catalog_.keeper_wanted()) {
    keeper_rests_ = false;
    keeper_wake_.notify_one();
  }
}

void AdapterStore::report(Lock& lock) {
  wake_threads();
  changed_.notify_all();
  if (!catalog_.take_settled() || !options_.on_settled) return;
  lock.unlock();
  options_.on_settled();
  lock.lock();
}

// Looks names up even while all loader threads read.
void AdapterStore::prober_thread() {
  Lock lock(mutex_);
  while (true) {
    prober_wake_.wait(lock, [this] { return catalog_.stopped() || catalog_.probes_queued(); });
    if (catalog_.stopped()) return;
    probe(*catalog_.next_probe(), lock);
  }
}

// Also looks names up, so that one probe that hangs does not hold up all others.
void AdapterStore::loader_thread() {
  Lock lock(mutex_);
  while (true) {
    loader_wake_.wait(lock, [this] {
      return catalog_.stopped() || catalog_.probes_queued() || catalog_.reads_granted();
    });
    if (catalog_.stopped()) return;
    if (AdapterLoad* load = catalog_.next_probe()) {
      probe(*load, lock);
    } else {
      read(*catalog_.next_read(), lock);
    }
  }
}

void AdapterStore::probe(AdapterLoad& load, Lock& lock) {
  note_waiting(Progress::kProbe);
  lock.unlock();
  AdapterProbe found;
  std::string error = error_of_call(load.id, [&] { found = backend_.probe(load.id); });
  lock.lock();
  if (error.empty()) {
    catalog_.probed(load, std::move(found), Clock::now());
  } else {
    catalog_.probe_failed(load, std::move(error));
  }
  note_waiting(Progress::kProbe);
  report(lock);
}

void AdapterStore::read(AdapterLoad& load, Lock& lock) {
  note_waiting(Progress::kRead);
  lock.unlock();
  std::unique_ptr<HostAdapter> host;
  const auto start = Clock::now();
  std::string error = error_of_call(load.id, [&] { host = backend_.load(load.id, load.probe); });
  // Files that changed meanwhile explain any error, and spoil any success.
  bool changed = false;
  std::string probe_error = error_of_call(
      load.id, [&] { changed = backend_.probe(load.id).fingerprint != load.probe.fingerprint; });
  if (error.empty()) error = std::move(probe_error);
  if (error.empty() && !changed && host->host_bytes() > load.probe.host_bytes) {
    error = say("adapter '{}' takes {} bytes of host memory, not the {} it announced", load.id,
                host->host_bytes(), load.probe.host_bytes);
  }
  if (changed || !error.empty()) host.reset();
  const double seconds = seconds_since(start);
  lock.lock();
  if (changed) {
    catalog_.changed_while_read(load, seconds);
  } else if (!error.empty()) {
    catalog_.read_failed(load, std::move(error), seconds);
  } else {
    enter(load, host, seconds, lock);
  }
  if (host != nullptr) {  // its content is here already
    const uint64_t bytes = host->host_bytes();
    lock.unlock();
    host.reset();
    lock.lock();
    catalog_.spare_destroyed(bytes);
  }
  note_waiting(Progress::kRead);
  report(lock);
}

// Into the catalog, or, if there is no memory for what that takes, away.
void AdapterStore::enter(AdapterLoad& load, std::unique_ptr<HostAdapter>& host, double seconds,
                         Lock& lock) {
  try {
    return catalog_.read(load, host, seconds, Clock::now());
  } catch (const std::bad_alloc&) {
    lock.unlock();
    host.reset();
    lock.lock();
  }
  catalog_.read_failed(load, say("adapter '{}' finds no memory", load.id), seconds);
}

void AdapterStore::keeper_thread() {
  Lock lock(mutex_);
  while (!catalog_.stopped()) {
    keeping_since_ = Clock::now();
    bool kept = false;
    try {
      kept = keep(lock);
    } catch (const std::bad_alloc&) {
      keeping_since_ = kNever;
      keeper_wake_.wait_for(lock, kMemoryPause);
      continue;
    }
    keeping_since_ = kNever;
    if (kept) continue;
    keeper_rests_ = true;
    changed_.notify_all();
    keeper_wake_.wait(lock, [this] { return catalog_.stopped() || !keeper_rests_; });
  }
}

// One round: what was dropped, one read, one upload. False if there was nothing to do; then all
// that waits, waits for a change that wakes the keeper.
bool AdapterStore::keep(Lock& lock) {
  AdapterRemains remains = catalog_.take_dropped();
  const bool dropped = !remains.empty();
  if (dropped) bury(remains, lock);

  AdapterLoad* const load = catalog_.claim_read(remains);
  if (load != nullptr) {
    bury(remains, lock);
    catalog_.grant(*load);
    report(lock);
  }

  AdapterEntry* const entry = catalog_.claim_upload(remains);
  if (entry != nullptr) {
    bury(remains, lock);
    if (catalog_.begin_upload(*entry)) upload(*entry, lock);
    report(lock);
  }
  return dropped || load != nullptr || entry != nullptr;
}

void AdapterStore::bury(AdapterRemains& remains, Lock& lock) {
  if (!remains.empty()) {
    lock.unlock();
    remains.destroy();
    lock.lock();
  }
  catalog_.settle_burial(remains);
  remains.clear();
}

void AdapterStore::upload(AdapterEntry& entry, Lock& lock) {
  const HostAdapter& host = *entry.host;
  const int slot = entry.slot;
  lock.unlock();
  std::unique_ptr<ResidentAdapter> resident;
  const auto start = Clock::now();
  const std::string error =
      error_of_call(host.digest(), [&] { resident = backend_.upload(host, slot); });
  const double seconds = seconds_since(start);
  lock.lock();
  if (error.empty()) {
    catalog_.uploaded(entry, std::move(resident), seconds);
  } else {
    catalog_.upload_failed(entry, error, seconds);
  }
}

}  // namespace lorax
