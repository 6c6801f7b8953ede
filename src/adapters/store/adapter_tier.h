// The books of one tier of memory: how many bytes are taken, and whose copies could give way, the
// least recently used first. Pure bookkeeping: no memory, no threads, no locks.
#pragma once

#include <cstdint>
#include <list>

namespace lorax {

struct AdapterEntry;

class AdapterTier {
 public:
  // Where an entry's copy stands in a tier.
  struct Place {
    // Before the copy is entered. What is done with a place that is made needs no memory.
    void make(AdapterEntry& entry) {
      if (!present && node.empty()) node.push_back(&entry);
    }

    std::list<AdapterEntry*> node;  // while it is not present
    std::list<AdapterEntry*>::iterator self;
    uint64_t bytes = 0;
    bool present = false;
    bool idle = false;  // nobody uses it: it may be evicted
  };

  explicit AdapterTier(uint64_t budget) : budget_(budget) {}

  uint64_t budget() const { return budget_; }
  uint64_t used() const { return used_; }  // copies, reservations, and copies being destroyed
  uint64_t free() const { return budget_ - used_; }
  // Whether `bytes` could be reserved once enough idle copies have been evicted.
  bool fits(uint64_t bytes) const { return bytes <= budget_ - (used_ - idle_bytes_); }

  void reserve(uint64_t bytes);  // precondition: bytes <= free()
  void release(uint64_t bytes);

  // Enters a copy, not idle, whose bytes have been reserved. Precondition: the place is made.
  void add(Place& place, uint64_t bytes);
  // Takes a copy out. Its bytes stay taken until release(): the memory is still there.
  void remove(Place& place);
  // Does nothing for a copy that is not present. A copy that becomes idle is the most recent one.
  void set_idle(Place& place, bool idle);
  // Makes an idle copy the most recent one.
  void touch(Place& place);

  AdapterEntry* least_recent() const { return idle_.empty() ? nullptr : idle_.front(); }
  uint64_t copies() const { return idle_.size() + busy_.size(); }

 private:
  const uint64_t budget_;
  uint64_t used_ = 0;
  uint64_t idle_bytes_ = 0;
  std::list<AdapterEntry*> idle_;  // the least recently used first
  std::list<AdapterEntry*> busy_;
};

}  // namespace lorax
