#include "device/cpu/order_cut.h"

#include <algorithm>
#include <array>

namespace lorax::cpu {

OrderCut cut_order(const uint32_t* keys, const float* weights, int64_t n, double target,
                   uint32_t* left_keys, float* left_weights) {
  constexpr uint32_t kDigit = 2047;
  std::array<double, kDigit + 1> sums;
  double before = 0.0;  // of the keys below all that are left
  for (const int shift : {21, 10, 0}) {
    sums.fill(0.0);
    for (int64_t i = 0; i < n; ++i) sums[(keys[i] >> shift) & kDigit] += weights[i];
    // The digit at which the target is reached, or the last that weighs anything.
    uint32_t digit = 0;
    double before_digit = before;
    double sum = before;
    for (uint32_t i = 0; i <= kDigit && sum < target; ++i) {
      if (sums[i] == 0.0) continue;
      digit = i;
      before_digit = sum;
      sum += sums[i];
    }
    before = before_digit;
    int64_t left = 0;
    for (int64_t i = 0; i < n; ++i) {
      left_keys[left] = keys[i];
      left_weights[left] = weights[i];
      if (((keys[i] >> shift) & kDigit) == digit) ++left;
    }
    keys = left_keys;
    weights = left_weights;
    n = left;
  }
  OrderCut cut{.key = keys[0], .ties = 0};
  do {
    before += weights[cut.ties++];
  } while (cut.ties < n && before < target);
  return cut;
}

}  // namespace lorax::cpu
