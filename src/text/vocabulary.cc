#include "text/vocabulary.h"

#include <functional>

#include "base/error.h"
#include "base/quote_token.h"

namespace lorax {
namespace {

uint32_t hash_of(std::string_view piece) {
  return static_cast<uint32_t>(std::hash<std::string_view>()(piece));
}

}  // namespace

void Vocabulary::add(std::string_view piece, int32_t id, std::string_view origin) {
  if (id < 0 || id >= kMaxSize) {
    fail("{}: the token {} has the id {}; ids must lie from 0 to {}", origin, quote_token(piece),
         id, kMaxSize - 1);
  }
  if (piece.empty()) fail("{}: the token with the id {} is empty", origin, id);
  if (!this->piece(id).empty()) {
    fail("{}: the tokens {} and {} have one id, {}", origin, quote_token(this->piece(id)),
         quote_token(piece), id);
  }
  if (2 * (count_ + 1) > index_.size()) grow_index();
  const uint32_t hash = hash_of(piece);
  Indexed& indexed = index_[place(piece, hash)];
  if (indexed.id != kNone) {
    fail("{}: the token {} has two ids, {} and {}", origin, quote_token(piece), indexed.id, id);
  }
  indexed = {id, hash};
  ++count_;
  const auto slot = static_cast<size_t>(id);
  if (slot >= slots_.size()) slots_.resize(slot + 1);
  slots_[slot] = {arena_.size(), piece.size()};
  arena_.append(piece);
}

int32_t Vocabulary::find(std::string_view piece) const {
  return index_.empty() ? kNone : index_[place(piece, hash_of(piece))].id;
}

size_t Vocabulary::place(std::string_view piece, uint32_t hash) const {
  const size_t mask = index_.size() - 1;
  size_t at = hash & mask;
  while (index_[at].id != kNone &&
         (index_[at].hash != hash || this->piece(index_[at].id) != piece)) {
    at = (at + 1) & mask;
  }
  return at;
}

void Vocabulary::grow_index() {
  std::vector<Indexed> old(index_.empty() ? 16 : 2 * index_.size());
  index_.swap(old);
  for (const Indexed& indexed : old) {
    if (indexed.id != kNone) index_[place(piece(indexed.id), indexed.hash)] = indexed;
  }
}

}  // namespace lorax
