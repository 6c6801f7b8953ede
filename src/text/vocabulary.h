// The pieces of a tokenizer and their ids, in one arena with a hash index.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lorax {

class Vocabulary {
 public:
  static constexpr int32_t kNone = -1;
  // Ids of a file must be below this: bounds what a foreign file can make us allocate.
  static constexpr int32_t kMaxSize = 1 << 22;

  // Copies the piece. Throws Error that begins with `origin` for an id that is out of range or
  // taken, an empty piece, and a piece that has an id.
  void add(std::string_view piece, int32_t id, std::string_view origin);

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
    size_t offset = 0;
    size_t length = 0;
  };

  struct Indexed {
    int32_t id = kNone;
    uint32_t hash = 0;  // keeps comparisons with other pieces, far away in memory, rare
  };

  // Where the piece of this hash is in the index, or would go.
  size_t place(std::string_view piece, uint32_t hash) const;
  void grow_index();

  std::string arena_;
  std::vector<Slot> slots_;     // by id
  std::vector<Indexed> index_;  // open addressing with linear probing, at most half full
  size_t count_ = 0;
};

}  // namespace lorax
