// Where a sorted list with a weight per element reaches a given sum, found without sorting it.
#pragma once

#include <cstdint>

namespace lorax::cpu {

// Keys below `key` are in; of those equal to it, the first `ties` in the list's order.
struct OrderCut {
  uint32_t key = 0;
  int64_t ties = 0;
};

// In ascending order of key, then of place: the shortest beginning whose weights add up to at least
// `target`; all elements with a weight if they don't. n >= 1; one element at least is in. Sums are
// in double. left_keys and left_weights are room for n elements.
OrderCut cut_order(const uint32_t* keys, const float* weights, int64_t n, double target,
                   uint32_t* left_keys, float* left_weights);

}  // namespace lorax::cpu
