// "Did you mean ...?": which of some known words a mistyped one stands for.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace lorax {

// The known word that takes the fewest changes of a character (inserted, left out, replaced, or two
// neighbours exchanged), case aside; the first of several. None if even that one takes more than a
// third of the word's characters, or two of a short word.
std::optional<std::string> nearest_word(std::string_view word, std::span<const std::string> known);

// "; did you mean WORD?", or nothing.
std::string did_you_mean(std::string_view word, std::span<const std::string> known);

}  // namespace lorax
