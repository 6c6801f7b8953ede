// The adapter store without its threads: which adapters there are, who uses them, what is to be
// read, uploaded and evicted next. It calls no backend, allocates no adapter memory and destroys
// none: whatever may take time is handed to the caller (AdapterStore), who does it unlocked and
// reports back. Not thread-safe; AdapterStore guards it with one mutex.
//
// Of memory: request(), read(), take_dropped() and claim_read() may throw std::bad_alloc, and have
// changed nothing then. No other function throws: where a load needs memory and there is none, it
// fails.
//
// A load goes  kToProbe -> kProbing -> kToRead -> kClaimed -> kGranted -> kReading -> kToUpload
// -> kReady, skipping what is not needed, or ends as kFailed from any of them.
#pragma once

#include <chrono>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <fmt/format.h>
#include "adapters/store/adapter_backend.h"
#include "adapters/store/adapter_store_types.h"
#include "adapters/store/adapter_tier.h"

namespace lorax {

struct AdapterEntry;

// What a load that finds no memory fails with: short enough to need none itself.
inline constexpr std::string_view kNoMemory = "out of memory";

// A message, or kNoMemory.
template <typename... Args>
std::string say(fmt::format_string<Args...> format, Args&&... args) noexcept {
  try {
    return fmt::format(format, std::forward<Args>(args)...);
  } catch (...) {
    return std::string(kNoMemory);
  }
}

// One attempt to make one id usable, shared by all who asked for it meanwhile.
struct AdapterLoad {
  enum class Stage {
    kToProbe,   // queued
    kProbing,   // in a thread
    kToRead,    // queued, until there is room
    kClaimed,   // its room is being cleared
    kGranted,   // its room is reserved; queued
    kReading,   // in a thread
    kToUpload,  // its entry is queued, or being uploaded
    kReady,
    kFailed,
  };
  bool settled() const { return stage == Stage::kReady || stage == Stage::kFailed; }

  std::string id;
  uint64_t number = 0;  // loads are numbered in the order of their requests
  Stage stage = Stage::kToProbe;
  int tickets = 0;
  bool force_read = false;  // an unchanged fingerprint is not enough
  bool outdated = false;    // a refresh came after it began: the next request reads again
  AdapterProbe probe;
  int reads = 0;      // times that the files changed while they were read
  int overtaken = 0;  // times that a younger load was granted room before it
  AdapterEntry* entry = nullptr;
  std::string error;
  std::list<AdapterLoad>::iterator self;
};

// One content, under any number of names, in at least one tier.
struct AdapterEntry {
  std::string digest;
  std::vector<std::string> names;
  std::unique_ptr<HostAdapter> host;
  std::unique_ptr<ResidentAdapter> resident;
  AdapterTier::Place host_place;
  AdapterTier::Place device_place;
  int slot = -1;
  int holds = 0;  // ready tickets and pins
  std::vector<AdapterLoad*> waiters;
  bool uploading = false;
  int overtaken = 0;
};

// Copies taken out of the catalog, to be destroyed without its lock; then settle_burial() gives
// their room back.
struct AdapterRemains {
  std::vector<std::unique_ptr<HostAdapter>> host;
  std::vector<std::unique_ptr<ResidentAdapter>> resident;
  std::vector<int> slots;
  uint64_t host_bytes = 0;
  uint64_t device_bytes = 0;

  bool empty() const { return resident.empty() && host.empty(); }
  // So that what is taken out needs no memory.
  void reserve(size_t copies, size_t residents) {
    host.reserve(copies);
    resident.reserve(residents);
    slots.reserve(residents);
  }
  void clear() {
    destroy();
    slots.clear();
    host_bytes = device_bytes = 0;
  }
  // Resident ones first: they may point into the host copies.
  void destroy() {
    resident.clear();
    host.clear();
  }
};

class AdapterCatalog {
 public:
  using Time = std::chrono::steady_clock::time_point;

  explicit AdapterCatalog(const AdapterStoreOptions& options);
  ~AdapterCatalog();
  AdapterCatalog(const AdapterCatalog&) = delete;
  AdapterCatalog& operator=(const AdapterCatalog&) = delete;

  // --- Those who ask ---
  // The result has one ticket more, to be returned with drop().
  AdapterLoad& request(const std::string& id, Time now);
  // Whether the name's adapter was on the device when it was last looked at, and is.
  bool is_resident(const std::string& id) const;
  void drop(AdapterLoad& load);
  void pin(AdapterEntry& entry);
  void unpin(AdapterEntry& entry);
  // Whether it waits for room that only its users' tickets and pins can give.
  bool lacks_room(const AdapterLoad& load) const;
  void refresh(const std::string& id);
  void forget(const std::string& id);

  // --- Threads that look and read. Null: nothing to do. ---
  AdapterLoad* next_probe();
  void probed(AdapterLoad& load, AdapterProbe probe, Time now);
  AdapterLoad* next_read();
  // Its content has been read. What is left in `host` afterwards is not wanted: destroy it, then
  // call spare_destroyed() with its bytes.
  void read(AdapterLoad& load, std::unique_ptr<HostAdapter>& host, double seconds, Time now);
  // Its files changed meanwhile; what was read has been destroyed. Begins again, thrice at most.
  void changed_while_read(AdapterLoad& load, double seconds);
  // What was read, if anything, has been destroyed.
  void probe_failed(AdapterLoad& load, std::string message);
  void read_failed(AdapterLoad& load, std::string message, double seconds);
  void spare_destroyed(uint64_t bytes);

  // --- The keeper: the one thread that clears and reserves room ---
  // What was dropped since the last call.
  AdapterRemains take_dropped();
  // A load that may be read once `remains` are buried; then grant() it.
  AdapterLoad* claim_read(AdapterRemains& remains);
  void grant(AdapterLoad& load);
  // An entry that may be uploaded once `remains` are buried; then begin_upload() it. That is false
  // if nobody waits for it any more; else it ends with uploaded() or upload_failed().
  AdapterEntry* claim_upload(AdapterRemains& remains);
  bool begin_upload(AdapterEntry& entry);
  void uploaded(AdapterEntry& entry, std::unique_ptr<ResidentAdapter> resident, double seconds);
  void upload_failed(AdapterEntry& entry, std::string_view message, double seconds);
  void settle_burial(const AdapterRemains& remains);

  // --- All threads ---
  // Fails what is queued; what is in a thread fails when it comes back.
  void stop();
  bool stopped() const { return stopped_; }
  bool probes_queued() const { return !to_probe_.empty(); }
  bool reads_granted() const { return !granted_.empty(); }
  // Whether reads wait for a thread that is free.
  bool reads_wait() const {
    return reads_granted() || (reading_ >= options_.loader_threads && !to_read_.empty());
  }
  bool keeper_wanted() const {
    return !to_read_.empty() || !to_upload_.empty() || !dropped_.empty();
  }
  // No probe and no read is running or about to.
  bool quiet() const { return in_threads_ == 0 && to_probe_.empty() && granted_.empty(); }
  // Whether a load has settled since the last call.
  bool take_settled();
  AdapterStoreStats stats() const;

 private:
  struct Name {
    AdapterEntry* entry = nullptr;
    std::string fingerprint;
    Time checked_at;
    uint64_t number = 0;  // of the load that set it
    bool must_read = false;
  };

  std::list<AdapterLoad>& list_of(AdapterLoad::Stage stage);
  void enter(AdapterLoad& load, AdapterLoad::Stage stage);
  void erase(AdapterLoad& load);
  void no_more_joining(const AdapterLoad& load);
  void end_progress(const AdapterLoad& load);
  void end_read(double seconds);
  // If nobody waits for it, or at shut-down: settles it, and is true. It may be gone then.
  bool give_up(AdapterLoad& load);
  void settle_ready(AdapterLoad& load, AdapterEntry& entry);
  void settle_failed(AdapterLoad& load, std::string message);

  void found(AdapterLoad& load, AdapterEntry& entry);
  // The entry of that content, made if there is none, with room for one more name.
  AdapterEntry& make_entry(const HostAdapter& host);
  void publish_name(AdapterLoad& load, AdapterEntry& entry, Name& name, std::string& id, Time now);
  void to_device(AdapterLoad& load, AdapterEntry& entry);
  // For one waiter more, and its entry in the queue. False if there is no memory for them.
  static bool make_upload_places(AdapterEntry& entry, std::list<AdapterEntry*>& place);
  void leave_upload_queue(AdapterLoad& load);
  void fail_waiters(AdapterEntry& entry, std::string_view reason);
  void end_upload(AdapterEntry& entry, double seconds);
  uint64_t device_need(const AdapterEntry& entry) const;
  bool device_fits(const AdapterEntry& entry) const;

  void hold(AdapterEntry& entry, int count);
  void release(AdapterEntry& entry, int count);
  // Brings the books in line with who uses the entry. One that nobody can ask for any more is
  // dropped: the reference is then no longer valid.
  void update(AdapterEntry& entry);
  void take_host(AdapterEntry& entry, AdapterRemains& remains, uint64_t& counter);
  void take_resident(AdapterEntry& entry, AdapterRemains& remains, uint64_t& counter);
  void evict_host(AdapterEntry& entry, AdapterRemains& remains);
  void evict_resident(AdapterEntry& entry, AdapterRemains& remains);
  void erase_if_gone(AdapterEntry& entry);

  const AdapterStoreOptions options_;
  AdapterTier host_;
  AdapterTier device_;
  std::vector<int> free_slots_;
  std::unordered_map<std::string, std::unique_ptr<AdapterEntry>> entries_;  // by digest
  std::unordered_map<std::string, Name> names_;
  std::unordered_map<std::string, AdapterLoad*> joinable_;  // by id

  std::list<AdapterLoad> to_probe_;
  std::list<AdapterLoad> to_read_;
  std::list<AdapterLoad> granted_;
  std::list<AdapterLoad> others_;  // all other stages
  std::list<AdapterEntry*> to_upload_;
  AdapterRemains dropped_;

  uint64_t last_number_ = 0;
  int reading_ = 0;     // claimed, granted, in a thread
  int in_threads_ = 0;  // probes, reads, spare copies being destroyed
  bool settled_ = false;
  bool stopped_ = false;
  AdapterStoreStats stats_;  // the counters; the rest is filled in by stats()
};

}  // namespace lorax
