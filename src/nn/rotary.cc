#include "nn/rotary.h"

#include <cmath>
#include <vector>

namespace lorax {

RotaryEmbedding::RotaryEmbedding(WeightStore& store, int64_t head_dim, float theta,
                                 int64_t max_positions) {
  const int64_t half = head_dim / 2;
  std::vector<float> cos(static_cast<size_t>(max_positions * half));
  std::vector<float> sin(cos.size());
  for (int64_t i = 0; i < half; ++i) {
    // The exponent, the power and its reciprocal are float32 in the definition; a double would
    // differ by up to 1e-3 in the angle at position 8,000.
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    const float frequency = 1.0f / std::pow(theta, exponent);
    for (int64_t position = 0; position < max_positions; ++position) {
      const float angle = static_cast<float>(position) * frequency;
      cos[static_cast<size_t>(position * half + i)] = std::cos(angle);
      sin[static_cast<size_t>(position * half + i)] = std::sin(angle);
    }
  }
  cos_ = store.add_float32(cos, {max_positions, half});
  sin_ = store.add_float32(sin, {max_positions, half});
}

}  // namespace lorax
