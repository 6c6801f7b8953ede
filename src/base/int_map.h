// A hash map from 64-bit keys to 32-bit values: open addressing in one array, at most half full.
// For tables that are filled once and read millions of times.
#pragma once

#include <bit>
#include <cstdint>
#include <utility>
#include <vector>

namespace lorax {

class IntMap {
 public:
  static constexpr uint32_t kAbsent = UINT32_MAX;
  static constexpr uint64_t kNoKey = UINT64_MAX;  // must not be inserted

  // Room for this many keys; more are taken too.
  explicit IntMap(size_t expected = 0) : slots_(std::bit_ceil(2 * expected + 2)) {}

  // Replaces the value of a key that is there. kAbsent must not be a value.
  void insert(uint64_t key, uint32_t value) {
    if (2 * (size_ + 1) > slots_.size()) grow();
    Slot& slot = slots_[place(key)];
    if (slot.key == kNoKey) ++size_;
    slot = {key, value};
  }

  uint32_t find(uint64_t key) const { return slots_[place(key)].value; }
  bool contains(uint64_t key) const { return find(key) != kAbsent; }

 private:
  struct Slot {
    uint64_t key = kNoKey;
    uint32_t value = kAbsent;
  };

  // Where the key is, or would go.
  size_t place(uint64_t key) const {
    const size_t mask = slots_.size() - 1;
    size_t at = static_cast<size_t>((key * 0x9E3779B97F4A7C15u) >> 32) & mask;
    while (slots_[at].key != key && slots_[at].key != kNoKey) at = (at + 1) & mask;
    return at;
  }

  void grow() {
    std::vector<Slot> old(2 * slots_.size());
    slots_.swap(old);
    for (const Slot& slot : old) {
      if (slot.key != kNoKey) slots_[place(slot.key)] = slot;
    }
  }

  std::vector<Slot> slots_;
  size_t size_ = 0;
};

}  // namespace lorax
