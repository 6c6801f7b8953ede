// Byte-pair encoding of one stretch of text, to the rules of Hugging Face's tokenizers (its
// models/bpe): each code point becomes a symbol, then of all neighbours that merge the pair of the
// lowest rank merges, the leftmost first, until none does.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/int_map.h"
#include "text/vocabulary.h"

namespace lorax {

struct BpeMerge {
  int32_t left;
  int32_t right;
  int32_t result;  // whose piece is that of left and right, joined
};

struct BpeOptions {
  bool byte_fallback = false;          // a code point without a piece becomes its <0x..> pieces
  int32_t unk_id = Vocabulary::kNone;  // else this, or nothing if there is none
  bool fuse_unk = false;               // one unk_id for neighbours
};

// Immutable, thread-safe; does not refer to the vocabulary once made.
class BpeModel {
 public:
  // `merges` by rank, ids of the vocabulary; of equal pairs the last counts.
  BpeModel(const Vocabulary& vocabulary, std::span<const BpeMerge> merges, BpeOptions options);

  // Appends the ids of a text of valid UTF-8 of less than 2^32 code points. Time: the text's length
  // times the logarithm of its longest run. A run ends between two code points over which no merge
  // reaches; with Gemma's merges each word is one.
  void encode(std::string_view text, std::vector<int32_t>& ids) const;

 private:
  friend class BpeEncoding;

  static constexpr uint32_t kNoRank = IntMap::kAbsent;

  uint32_t rank_of(int32_t left, int32_t right) const;
  bool merge_can_reach_over(char32_t left, char32_t right) const;

  BpeOptions options_;
  IntMap code_points_;                 // to ids
  std::array<int32_t, 256> byte_ids_;  // of the pieces <0x..>
  IntMap ranks_;                       // by pair of ids
  std::vector<int32_t> results_;       // by rank
  // The pairs (last code point of left, first of right) of all merges: a merge over the boundary
  // between two code points has them there. Not used if the <0x..> pieces or unk_id merge, which
  // are symbols without a code point.
  IntMap reached_over_;
  bool has_boundaries_ = true;
};

}  // namespace lorax
