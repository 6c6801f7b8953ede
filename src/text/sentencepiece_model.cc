#include "text/sentencepiece_model.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "base/quote_token.h"
#include "base/utf8.h"
#include "text/added_tokens.h"
#include "text/vocabulary.h"

namespace lorax {
namespace {

// One field of a protocol buffer message.
// https://protobuf.dev/programming-guides/encoding
struct ProtoField {
  uint64_t number = 0;
  uint64_t value = 0;      // of a number
  std::string_view bytes;  // of a string or message
};

// The fields of a message, in the order of the file.
class ProtoReader {
 public:
  ProtoReader(std::string_view message, std::string_view origin)
      : left_(message), origin_(origin) {}

  std::optional<ProtoField> next() {
    if (left_.empty()) return std::nullopt;
    const uint64_t key = varint();
    ProtoField field;
    field.number = key >> 3;
    switch (key & 7) {
      case 0:
        field.value = varint();
        break;
      case 1:
        field.value = fixed<uint64_t>();
        break;
      case 2:
        field.bytes = take(varint());
        break;
      case 5:
        field.value = fixed<uint32_t>();
        break;
      default:
        fail_broken();
    }
    return field;
  }

 private:
  [[noreturn]] void fail_broken() const { fail("{}: is not a SentencePiece model", origin_); }

  std::string_view take(uint64_t count) {
    if (count > left_.size()) fail_broken();
    const std::string_view bytes = left_.substr(0, count);
    left_.remove_prefix(count);
    return bytes;
  }

  template <typename T>
  T fixed() {
    static_assert(std::endian::native == std::endian::little);
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<uint8_t>(take(1)[0]);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    fail_broken();
  }

  std::string_view left_;
  std::string_view origin_;
};

SentencePieceModel::Piece read_piece(std::string_view message, std::string_view origin) {
  SentencePieceModel::Piece piece;
  ProtoReader reader(message, origin);
  while (const std::optional<ProtoField> field = reader.next()) {
    if (field->number == 1) piece.text = field->bytes;
    if (field->number == 2) piece.score = std::bit_cast<float>(static_cast<uint32_t>(field->value));
    if (field->number == 3) {
      if (field->value < 1 || field->value > 6) {
        fail("{}: the piece {} has the unknown type {}", origin, quote_token(piece.text),
             field->value);
      }
      piece.type = static_cast<SentencePieceModel::Type>(field->value);
    }
  }
  const bool usable = !piece.text.empty() && piece.text.size() <= AddedToken::kMaxBytes &&
                      is_valid_utf8(piece.text) &&
                      piece.text.find('\0') == std::string_view::npos && std::isfinite(piece.score);
  if (!usable) {
    fail("{}: the piece {} is broken: it must have 1 to {} bytes of UTF-8 and a score", origin,
         quote_token(piece.text), AddedToken::kMaxBytes);
  }
  return piece;
}

bool is_bpe(std::string_view trainer_spec, std::string_view origin) {
  constexpr uint64_t kUnigram = 1;
  constexpr uint64_t kBpe = 2;
  uint64_t model_type = kUnigram;
  ProtoReader reader(trainer_spec, origin);
  while (const std::optional<ProtoField> field = reader.next()) {
    if (field->number == 3) model_type = field->value;
  }
  return model_type == kBpe;
}

// A table of rules, in either normalizer, which the library reads without checking it.
bool has_rules(std::string_view normalizer_spec, std::string_view origin) {
  ProtoReader reader(normalizer_spec, origin);
  while (const std::optional<ProtoField> field = reader.next()) {
    if (field->number == 2 && !field->bytes.empty()) return true;
  }
  return false;
}

// Whether a normalizer writes a space as "▁" and does nothing else.
bool escapes_spaces_only(std::string_view normalizer_spec, std::string_view origin) {
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  ProtoReader reader(normalizer_spec, origin);
  while (const std::optional<ProtoField> field = reader.next()) {
    if (field->number == 3) add_dummy_prefix = field->value != 0;
    if (field->number == 4) remove_extra_whitespaces = field->value != 0;
    if (field->number == 5) escape_whitespaces = field->value != 0;
  }
  return !add_dummy_prefix && !remove_extra_whitespaces && escape_whitespaces;
}

}  // namespace

SentencePieceModel SentencePieceModel::parse(std::string_view bytes, std::string_view origin) {
  SentencePieceModel model;
  bool bpe = false;
  bool escapes_spaces = false;
  ProtoReader reader(bytes, origin);
  while (const std::optional<ProtoField> field = reader.next()) {
    if (field->number == 1) {
      if (model.pieces.size() == Vocabulary::kMaxSize) {
        fail("{}: has more than {} pieces", origin, Vocabulary::kMaxSize);
      }
      model.pieces.push_back(read_piece(field->bytes, origin));
    }
    if (field->number == 2) bpe = is_bpe(field->bytes, origin);
    if (field->number == 3) escapes_spaces = escapes_spaces_only(field->bytes, origin);
    if ((field->number == 3 || field->number == 5) && has_rules(field->bytes, origin)) {
      fail("{}: has rules to normalize text, which are not supported", origin);
    }
  }
  if (model.pieces.empty()) fail("{}: is not a SentencePiece model", origin);
  if (!bpe) fail("{}: is not a BPE model; no other kind is supported", origin);
  if (!escapes_spaces) {
    fail(
        "{}: its normalizer does more than write spaces as \"▁\", which is not supported; use the "
        "tokenizer.json of this model",
        origin);
  }
  return model;
}

}  // namespace lorax
