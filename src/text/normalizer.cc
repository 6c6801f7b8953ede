#include "text/normalizer.h"

namespace lorax {

std::string Normalizer::apply(std::string_view text) const {
  std::string out(text);
  for (const Replacement& step : steps) {
    if (!step.pattern.empty()) {
      out = replace_all(out, step.pattern, step.content);
    } else if (!out.empty()) {
      out.insert(0, step.content);
    }
  }
  return out;
}

}  // namespace lorax
