#include "base/nearest_word.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <vector>

namespace lorax {
namespace {

// Longer ones are no names that somebody typed.
constexpr size_t kMaxLength = 256;

std::string lower(std::string_view word) {
  std::string out(word);
  std::ranges::transform(out, out.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

// Damerau's distance, of which no part is edited twice ("optimal string alignment").
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({replaced, last[j] + 1, row[j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

}  // namespace

std::optional<std::string> nearest_word(std::string_view word, std::span<const std::string> known) {
  if (word.empty() || word.size() > kMaxLength) return std::nullopt;
  const std::string given = lower(word);
  const std::string* best = nullptr;
  size_t fewest = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : known) {
    if (candidate.size() > kMaxLength) continue;
    const size_t changes = distance(given, lower(candidate));
    // A word of which nothing is left is not what was meant.
    if (changes < fewest && changes < std::max(given.size(), candidate.size()) - 1) {
      fewest = changes;
      best = &candidate;
    }
  }
  if (best == nullptr) return std::nullopt;
  return *best;
}

std::string did_you_mean(std::string_view word, std::span<const std::string> known) {
  const std::optional<std::string> nearest = nearest_word(word, known);
  return nearest ? fmt::format("; did you mean {}?", *nearest) : "";
}

}  // namespace lorax
