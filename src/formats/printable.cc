#include "formats/printable.h"

#include <fmt/format.h>

namespace lorax {

std::string printable(std::string_view text) {
  constexpr size_t kMaxBytes = 100;
  std::string out;
  for (char c : text) {
    const bool starts_a_character = (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    if (out.size() >= kMaxBytes && starts_a_character) return out + "...";
    if (is_control(c)) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace lorax
