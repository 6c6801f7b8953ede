// The arithmetic of merging: several tensors of one shape become one. In float32, after PEFT's
// merge_utils; sums go from the first tensor to the last.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lorax {

enum class MajoritySign {
  kTotal,      // the sign of the sum of the values
  kFrequency,  // the sign of the sum of the signs
};

// Sets all but the int(density * n) largest magnitudes to zero; of equal ones the first stay.
// Density 1 changes nothing.
void prune_by_magnitude(std::span<float> values, double density);

// Keeps each value with probability `density`, divided by it, and sets the others to zero; density
// 1 changes nothing. What is kept depends on (seed, index) alone.
void prune_at_random(std::span<float> values, double density, uint64_t seed);

// sum_i weights[i] * tensors[i]. All tensors have the same size; there is at least one.
std::vector<float> weighted_sum(std::span<const std::vector<float>> tensors,
                                std::span<const float> weights);

// For each element: the majority's sign is elected from the unweighted values (a draw is positive);
// the weighted values that have it are added and divided by their number.
std::vector<float> merge_by_sign(std::span<const std::vector<float>> tensors,
                                 std::span<const float> weights, MajoritySign method);

}  // namespace lorax
