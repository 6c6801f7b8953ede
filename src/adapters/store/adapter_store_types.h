// The settings of the adapter store, and what it counts.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

namespace lorax {

struct AdapterStoreOptions {
  // Bytes of all host copies, loads in flight included; never exceeded. Where memory is separate,
  // copies that wait for the device take room here, too: best larger than device_budget.
  uint64_t host_budget = 0;
  // Bytes of all device copies, uploads in flight included; never exceeded. Means nothing where
  // memory is unified.
  uint64_t device_budget = 0;
  // Host and device memory are one (the CPU): a resident adapter is a slot and a view of its host
  // copy, which is counted once, in the host tier, and lives at least as long.
  bool unified_memory = true;
  // Entries of the device's adapter tables: the most adapters that are resident at once.
  int slots = 1024;
  // Threads that read adapters. Two further threads look names up (probe) and upload.
  int loader_threads = 2;
  // A request for a known name looks again at its fingerprint if that was last done this long ago
  // or longer; 0: always. A change within this time (or within the time of one look) may be missed
  // until then; none is after refresh().
  std::chrono::milliseconds recheck_after{1000};
  // Called after tickets have become ready or failed, from the store's threads (and shutdown()),
  // without locks, at times once more than needed:
  // an engine that sleeps when it has nothing to run is woken here.
  std::function<void()> on_settled;
};

// At any time loads == evictions + dropped + adapters.
struct AdapterTierStats {
  uint64_t budget_bytes = 0;
  uint64_t bytes = 0;         // taken now: copies, reservations, copies being destroyed
  uint64_t adapters = 0;      // copies now
  uint64_t hits = 0;          // found here when asked for
  uint64_t loads = 0;         // brought here: read from disk, or uploaded to the device
  uint64_t failed_loads = 0;  // could not be brought here
  uint64_t evictions = 0;     // gave way to another
  uint64_t dropped = 0;       // out of date, forgotten, or equal to one already here
  double load_seconds = 0;    // spent reading or uploading, failures included
};

// requests == joined + device.hits + host.hits + host.loads + host.failed_loads + abandoned, once
// nothing is in progress.
struct AdapterStoreStats {
  AdapterTierStats host;
  AdapterTierStats device;
  uint64_t requests = 0;
  uint64_t joined = 0;     // found their adapter being looked up or read
  uint64_t abandoned = 0;  // loads given up before they began: nobody waited any more, or shut-down
  uint64_t waiting = 0;    // loads in progress now, those that wait for room included
  uint64_t tickets = 0;    // alive now
  uint64_t pins = 0;       // alive now
  int slots = 0;
  int slots_used = 0;
};

}  // namespace lorax
