#include "server/api/token_offsets.h"

#include <algorithm>
#include <charconv>

namespace lorax {
namespace {

bool begins_character(unsigned char byte) { return (byte & 0xc0) != 0x80; }

}  // namespace

std::optional<unsigned char> byte_of_piece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece.back() != '>') return std::nullopt;
  unsigned value = 0;
  const auto [end, error] = std::from_chars(piece.data() + 3, piece.data() + 5, value, 16);
  if (error != std::errc() || end != piece.data() + 5) return std::nullopt;
  return static_cast<unsigned char>(value);
}

std::vector<TokenOffset> token_offsets(const Tokenizer& tokenizer, std::span<const int32_t> ids) {
  std::vector<TokenOffset> offsets;
  offsets.reserve(ids.size());
  int64_t position = 0;
  for (const int32_t id : ids) {
    const std::string_view piece = tokenizer.piece(id);
    if (const std::optional<unsigned char> byte = byte_of_piece(piece)) {
      if (begins_character(*byte)) ++position;
      offsets.push_back({std::max<int64_t>(position - 1, 0), position});
      continue;
    }
    const int64_t length = std::ranges::count_if(
        piece, [](char c) { return begins_character(static_cast<unsigned char>(c)); });
    offsets.push_back({position, position + length});
    position += length;
  }
  return offsets;
}

}  // namespace lorax
