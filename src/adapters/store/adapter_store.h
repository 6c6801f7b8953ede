// All adapters that are served, in three tiers: on disk, in host memory, in device memory (the
// last two are one on a CPU). Each tier has a byte budget that holds at every instant, loads in
// flight and copies being destroyed included; within it the least recently used give way, those
// in use never.
//
//   AdapterTicket ticket = store.request("path/to/adapter");   // never blocks
//   ...
//   if (ticket.state() == AdapterTicket::State::kReady) {
//     AdapterPin pin = ticket.try_pin();   // usable in every step until the pin is gone
//     ticket = {};
//   }
//
// Identity is the content digest. A name stands for the content it had when last looked at: once a
// directory has changed, a new request loads it as another adapter, while tickets and pins of the
// old one stay valid; it is dropped when the last of them goes. Names with equal content share it.
//
// Requests for an adapter that is being looked up or read join that load and share its outcome. A
// failed load leaves nothing behind; the next request tries again. One that finds no memory is a
// failed load; request() itself may throw std::bad_alloc, and is no request then.
//
// Loads begin in the order of their requests. One that finds no room lets those behind it pass, up
// to 64 times. A ready ticket keeps its adapter in memory like a pin: a requester is never told
// "ready" in vain. The price: whoever holds many tickets must use them or drop them, or those who
// see kNoRoom wait for ever.
//
// Threads: all functions of the store, of different tickets and of different pins may be called
// from any thread, and wait for nothing but a short lock (except wait() and load_now()). No lock
// is held while the backend works. See AdapterBackend for the threads that it is called on.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "adapters/store/adapter_backend.h"
#include "adapters/store/adapter_catalog.h"
#include "adapters/store/adapter_store_types.h"

namespace lorax {

class AdapterStore;

// An adapter in use: it stays on the device, in its slot, as long as this lives. Steps that read it
// must have finished (on the device, too) before the pin goes. Must not outlive its store.
class AdapterPin {
 public:
  AdapterPin() = default;  // pins nothing
  ~AdapterPin() { reset(); }
  AdapterPin(AdapterPin&& other) noexcept;
  AdapterPin& operator=(AdapterPin&& other) noexcept;

  explicit operator bool() const { return entry_ != nullptr; }
  void reset();

  // Preconditions of these: it pins something. They take no lock.
  int slot() const { return entry_->slot; }
  const std::string& digest() const { return entry_->digest; }
  const ResidentAdapter& adapter() const { return *entry_->resident; }

 private:
  friend class AdapterTicket;
  AdapterPin(AdapterStore& store, AdapterEntry& entry) : store_(&store), entry_(&entry) {}

  AdapterStore* store_ = nullptr;
  AdapterEntry* entry_ = nullptr;
};

// A request. Dropping it (destruction, or assigning another) withdraws it: a load that nobody waits
// for is not begun; one in flight ends, and its adapter stays as long as there is room. Must not
// outlive its store.
class AdapterTicket {
 public:
  enum class State {
    kLoading,  // queued, or in flight
    kNoRoom,   // queued, and all that could give way is in use: it goes on once there is room
    kReady,    // try_pin() succeeds
    kFailed,   // error() says why
  };

  AdapterTicket() = default;  // no request
  ~AdapterTicket() { reset(); }
  AdapterTicket(AdapterTicket&& other) noexcept;
  AdapterTicket& operator=(AdapterTicket&& other) noexcept;

  explicit operator bool() const { return load_ != nullptr; }
  void reset();

  // Preconditions of these: there is a request.
  State state() const;
  // The message of a failed load; precondition: kFailed.
  const std::string& error() const { return load_->error; }
  // A pin, one more at each call; an empty one unless kReady.
  AdapterPin try_pin() const;

 private:
  friend class AdapterStore;
  AdapterTicket(AdapterStore& store, AdapterLoad& load) : store_(&store), load_(&load) {}

  AdapterStore* store_ = nullptr;
  AdapterLoad* load_ = nullptr;
};

class AdapterStore {
 public:
  // `backend` must outlive the store. Throws Error for options that cannot work.
  AdapterStore(AdapterBackend& backend, AdapterStoreOptions options);
  // Shuts down. No ticket and no pin may be left.
  ~AdapterStore();
  AdapterStore(const AdapterStore&) = delete;
  AdapterStore& operator=(const AdapterStore&) = delete;

  AdapterTicket request(const std::string& id);
  // The same for one that is not on the device; an empty ticket for one that is, as far as is known
  // without looking. A hint, so that loading begins before the turn of whoever will ask: it counts
  // no hit.
  AdapterTicket request_ahead(const std::string& id);

  // Requests from now on get what is on disk from now on: the name is read again, whatever its
  // fingerprint says.
  void refresh(const std::string& id);
  // Unloads the name: its adapter is dropped once it has no other name, ticket and pin.
  void forget(const std::string& id);

  // Blocks until the ticket is ready or failed.
  void wait(const AdapterTicket& ticket);
  // Blocks until all are ready; pins in the order of `ids`. Throws Error if one cannot be loaded,
  // or if they do not fit beside what others hold.
  std::vector<AdapterPin> load_now(const std::vector<std::string>& ids);

  AdapterStoreStats stats() const;
  // How long lookups have waited without any being begun or ended, reads likewise, or one upload
  // has been under way, whichever is longest; 0 while nothing waits. A read that hangs alone,
  // beside threads that go on, is not counted.
  std::chrono::nanoseconds stuck_for() const;

  // Waits for the loads in flight, drops the queued ones and ends all threads. Tickets that waited
  // are failed, and so are later requests; pins stay valid. To be called by one thread; a second
  // call does nothing.
  void shutdown();

 private:
  friend class AdapterPin;
  friend class AdapterTicket;
  using Lock = std::unique_lock<std::mutex>;

  AdapterTicket::State state_of(const AdapterLoad& load) const;
  // Threads. Each takes work under the lock, does it without, and reports it with the lock.
  void prober_thread();
  void loader_thread();
  void keeper_thread();
  void probe(AdapterLoad& load, Lock& lock);
  void read(AdapterLoad& load, Lock& lock);
  void enter(AdapterLoad& load, std::unique_ptr<HostAdapter>& host, double seconds, Lock& lock);
  void bury(AdapterRemains& remains, Lock& lock);
  bool keep(Lock& lock);
  void upload(AdapterEntry& entry, Lock& lock);

  // Notes whether work waits, after some of this kind has been begun or ended.
  enum class Progress { kNone, kProbe, kRead };
  void note_waiting(Progress progress);
  // Wakes the threads that the books have work for.
  void wake_threads();
  // After a thread's work: also wakes those who wait, and tells the engine. Unlocks and relocks.
  void report(Lock& lock);

  static constexpr auto kNever = std::chrono::steady_clock::time_point::max();

  AdapterBackend& backend_;
  const AdapterStoreOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable prober_wake_;
  std::condition_variable loader_wake_;
  std::condition_variable keeper_wake_;
  std::condition_variable changed_;  // for wait() and load_now()
  AdapterCatalog catalog_;           // guarded by mutex_
  // Since when lookups and reads wait without progress, and the keeper is at one round; kNever:
  // they do not. Guarded by mutex_.
  std::chrono::steady_clock::time_point probes_wait_since_ = kNever;
  std::chrono::steady_clock::time_point reads_wait_since_ = kNever;
  std::chrono::steady_clock::time_point keeping_since_ = kNever;
  bool keeper_rests_ = false;  // it has seen all that there is; guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace lorax
