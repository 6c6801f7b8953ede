// Reads what the SentencePiece library does not tell about a tokenizer.model: the types of its
// pieces and the settings it was trained with.
// https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace lorax {

struct SentencePieceModel {
  // The numbers of the file. kUnused pieces are not refused here; the library splits them again.
  enum class Type { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

  struct Piece {
    std::string_view text;  // points into the file's bytes
    float score = 0.0f;
    Type type = Type::kNormal;
  };

  std::vector<Piece> pieces;  // by id

  // `bytes` must outlive the result. Throws Error that begins with `origin` for bytes that are no
  // such file, and for models that are not like Gemma's: other than BPE, changing text other than
  // writing a space as "▁", or with pieces that the library cannot be trusted with.
  static SentencePieceModel parse(std::string_view bytes, std::string_view origin);
};

}  // namespace lorax
