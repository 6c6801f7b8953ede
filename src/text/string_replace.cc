#include "text/string_replace.h"

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

}  // namespace lorax
