#include "text/vocabulary.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "base/error.h"

namespace lorax {
namespace {

size_t hash(std::string_view piece) { return std::hash<std::string_view>()(piece); }

}  // namespace

Vocabulary::Vocabulary(std::span<const Entry> entries, std::string_view origin) {
  int32_t highest = -1;
  size_t bytes = 0;
  for (const Entry& entry : entries) {
    if (entry.id < 0 || entry.id >= kMaxSize) {
      fail("{}: the token \"{}\" has the id {}; ids must lie from 0 to {}", origin, entry.piece,
           entry.id, kMaxSize - 1);
    }
    if (entry.piece.empty()) fail("{}: the token with id {} is empty", origin, entry.id);
    highest = std::max(highest, entry.id);
    bytes += entry.piece.size();
  }
  if (bytes > UINT32_MAX) fail("{}: the tokens have more than 4 GB of text", origin);
  arena_.reserve(bytes);
  slots_.resize(static_cast<size_t>(highest) + 1);
  index_.assign(std::bit_ceil(2 * entries.size() + 1), kNone);
  const size_t mask = index_.size() - 1;
  for (const Entry& entry : entries) {
    Slot& slot = slots_[static_cast<size_t>(entry.id)];
    if (slot.length != 0) {
      fail("{}: the tokens \"{}\" and \"{}\" have one id, {}", origin, piece(entry.id), entry.piece,
           entry.id);
    }
    slot = {static_cast<uint32_t>(arena_.size()), static_cast<uint32_t>(entry.piece.size())};
    arena_.append(entry.piece);
    size_t at = hash(entry.piece) & mask;
    for (; index_[at] != kNone; at = (at + 1) & mask) {
      if (piece(index_[at]) == entry.piece) {
        fail("{}: the token \"{}\" has two ids, {} and {}", origin, entry.piece, index_[at],
             entry.id);
      }
    }
    index_[at] = entry.id;
  }
}

int32_t Vocabulary::find(std::string_view wanted) const {
  if (index_.empty()) return kNone;
  const size_t mask = index_.size() - 1;
  for (size_t at = hash(wanted) & mask; index_[at] != kNone; at = (at + 1) & mask) {
    if (piece(index_[at]) == wanted) return index_[at];
  }
  return kNone;
}

}  // namespace lorax
