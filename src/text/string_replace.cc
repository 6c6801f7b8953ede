#include "text/string_replace.h"

#include <algorithm>

namespace lorax {

std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string out;
  out.reserve(text.size());
  size_t done = 0;
  for (size_t found = text.find(pattern); found != std::string_view::npos;
       found = text.find(pattern, done)) {
    out.append(text.substr(done, found - done)).append(content);
    done = found + pattern.size();
  }
  return out.append(text.substr(done));
}

bool growth_is_bounded(std::span<const Replacement> replacements) {
  constexpr size_t kMaxGrowth = 64;
  size_t growth = 1;
  for (const Replacement& replacement : replacements) {
    if (replacement.content.size() > kMaxGrowth) return false;
    const size_t pattern = std::max<size_t>(replacement.pattern.size(), 1);
    const size_t factor = (replacement.content.size() + pattern - 1) / pattern;
    growth *= std::max<size_t>(factor, 1);
    if (growth > kMaxGrowth) return false;
  }
  return true;
}

}  // namespace lorax
