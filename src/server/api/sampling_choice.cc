#include "server/api/sampling_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "server/api/api_error.h"

namespace lorax {

float usable_temperature(double temperature, std::optional<double> top_p) {
  // Below, differences of logits that float32 can tell apart leave one token all probability.
  constexpr double kSmallest = 1e-5;
  return temperature < kSmallest || top_p == 0.0 ? 0.0f : static_cast<float>(temperature);
}

float positive_float(double number) {
  return std::max(static_cast<float>(number), std::numeric_limits<float>::min());
}

int32_t usable_top_k(int64_t top_k) {
  return static_cast<int32_t>(std::clamp(top_k, int64_t{0}, int64_t{INT32_MAX}));
}

void check_stop_strings(const std::vector<std::string>& stop, int64_t max_count) {
  if (static_cast<int64_t>(stop.size()) > max_count) {
    refuse("stop", fmt::format("`stop` supports up to {} stop sequences. Given: {}", max_count,
                               stop.size()));
  }
  if (std::ranges::any_of(stop, [](const std::string& text) { return text.empty(); })) {
    refuse("stop", "`stop` has an empty stop sequence; leave it out");
  }
  // The engine looks for them in all texts that wait for it.
  constexpr size_t kMaxBytes = 4096;
  if (std::ranges::any_of(stop, [](const std::string& text) { return text.size() > kMaxBytes; })) {
    refuse("stop", fmt::format("`stop` has a stop sequence of more than {} bytes", kMaxBytes));
  }
}

}  // namespace lorax
