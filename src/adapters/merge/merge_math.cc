#include "adapters/merge/merge_math.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/check.h"
#include "base/mix64.h"

namespace lorax {
namespace {

float sign_of(float value) { return value > 0.0f ? 1.0f : value < 0.0f ? -1.0f : 0.0f; }

}  // namespace

void prune_by_magnitude(std::span<float> values, double density) {
  if (density >= 1.0 || values.empty()) return;
  const auto keep = static_cast<size_t>(density * static_cast<double>(values.size()));
  if (keep == 0) {
    std::ranges::fill(values, 0.0f);
    return;
  }
  std::vector<float> magnitudes(values.size());
  std::ranges::transform(values, magnitudes.begin(), [](float v) { return std::abs(v); });
  std::nth_element(magnitudes.begin(), magnitudes.begin() + static_cast<ptrdiff_t>(keep - 1),
                   magnitudes.end(), std::greater<>());
  const float smallest = magnitudes[keep - 1];
  const auto larger = static_cast<size_t>(
      std::ranges::count_if(values, [&](float v) { return std::abs(v) > smallest; }));
  size_t equal_to_keep = keep - larger;
  for (float& value : values) {
    const float magnitude = std::abs(value);
    if (magnitude > smallest) continue;
    if (magnitude == smallest && equal_to_keep > 0) {
      --equal_to_keep;
      continue;
    }
    value = 0.0f;
  }
}

void prune_at_random(std::span<float> values, double density, uint64_t seed) {
  if (density >= 1.0) return;
  const auto divisor = static_cast<float>(density);
  const uint64_t start = mix64(seed + 0x9e3779b97f4a7c15u);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint64_t bits = mix64(start + i * 0x9e3779b97f4a7c15u);
    const double uniform = static_cast<double>(bits >> 11) * 0x1p-53;
    values[i] = uniform < density ? values[i] / divisor : 0.0f;
  }
}

std::vector<float> weighted_sum(std::span<const std::vector<float>> tensors,
                                std::span<const float> weights) {
  LORAX_CHECK(!tensors.empty() && tensors.size() == weights.size());
  std::vector<float> sum(tensors[0].size(), 0.0f);
  for (size_t t = 0; t < tensors.size(); ++t) {
    LORAX_CHECK(tensors[t].size() == sum.size());
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += tensors[t][i] * weights[t];
  }
  return sum;
}

std::vector<float> merge_by_sign(std::span<const std::vector<float>> tensors,
                                 std::span<const float> weights, MajoritySign method) {
  LORAX_CHECK(!tensors.empty() && tensors.size() == weights.size());
  std::vector<float> merged(tensors[0].size());
  for (size_t i = 0; i < merged.size(); ++i) {
    float vote = 0.0f;
    for (const std::vector<float>& tensor : tensors) {
      vote += method == MajoritySign::kTotal ? tensor[i] : sign_of(tensor[i]);
    }
    const float majority = vote >= 0.0f ? 1.0f : -1.0f;
    float sum = 0.0f;
    float count = 0.0f;
    for (size_t t = 0; t < tensors.size(); ++t) {
      if (sign_of(tensors[t][i]) != majority) continue;
      sum += tensors[t][i] * weights[t];
      count += 1.0f;
    }
    merged[i] = sum / std::max(count, 1.0f);
  }
  return merged;
}

}  // namespace lorax
