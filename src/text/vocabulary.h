// The pieces of a tokenizer and their ids, in one arena with a hash index.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lorax {

class Vocabulary {
 public:
  static constexpr int32_t kNone = -1;
  // Ids of a file must be below this: bounds what a foreign file can make us allocate.
  static constexpr int32_t kMaxSize = 1 << 22;

  struct Entry {
    std::string_view piece;
    int32_t id;
  };

  Vocabulary() = default;
  // Copies the pieces. Throws Error that begins with `origin` for an id that is out of range or
  // given twice, an empty piece, and a piece given twice.
  Vocabulary(std::span<const Entry> entries, std::string_view origin);

  // The highest id plus one. Ids without a piece are allowed.
  int32_t size() const { return static_cast<int32_t>(slots_.size()); }
  // Empty for an id without a piece or outside the vocabulary. Lives as long as the vocabulary.
  std::string_view piece(int32_t id) const {
    if (id < 0 || id >= size()) return {};
    const Slot& slot = slots_[static_cast<size_t>(id)];
    return std::string_view(arena_).substr(slot.offset, slot.length);
  }
  // The id of a piece, kNone if there is none.
  int32_t find(std::string_view piece) const;

 private:
  struct Slot {
    uint32_t offset = 0;
    uint32_t length = 0;
  };

  std::string arena_;
  std::vector<Slot> slots_;    // by id
  std::vector<int32_t> index_;  // open addressing with linear probing; a power of two, half empty
};

}  // namespace lorax
