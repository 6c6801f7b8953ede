#include "device/cpu/sampling_passes.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "device/cpu/sampling_passes.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h: compiled once per instruction set.
#include "device/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorax::cpu::HWY_NAMESPACE {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The largest of x, -infinity if there is none; has_nan becomes true if there is a NaN.
float largest(const float* x, int64_t n, bool& has_nan) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto max0 = hn::Set(d, -kInfinity), max1 = max0;
  auto nan = hn::IsNaN(max0);
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const auto x0 = hn::LoadU(d, x + i), x1 = hn::LoadU(d, x + i + lanes);
    nan = hn::Or(nan, hn::Or(hn::IsNaN(x0), hn::IsNaN(x1)));
    max0 = hn::Max(x0, max0);
    max1 = hn::Max(x1, max1);
  }
  for (; i + lanes <= n; i += lanes) {
    const auto x0 = hn::LoadU(d, x + i);
    nan = hn::Or(nan, hn::IsNaN(x0));
    max0 = hn::Max(x0, max0);
  }
  float max = max_of_lanes(d, hn::Max(max0, max1));
  has_nan = has_nan || !hn::AllFalse(d, nan);
  for (; i < n; ++i) {
    has_nan = has_nan || std::isnan(x[i]);
    max = std::max(max, x[i]);
  }
  return max;
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V distance(D d, V x, const Softmax& softmax) {
  return hn::Mul(hn::Sub(hn::Set(d, softmax.max), x), hn::Set(d, softmax.inverse_temperature));
}

// The sum of the weights of at most kSumBlock elements.
double sum_of_weights(const float* x, int64_t n, const Softmax& softmax) {
  const hn::ScalableTag<float> d;
  auto sum = hn::Zero(d);
  float rest = 0.0f;
  for_each_vector(0, n, [&](auto tag, int64_t i) HWY_ATTR {
    const auto weight = hn::Exp(tag, hn::Neg(distance(tag, hn::LoadU(tag, x + i), softmax)));
    if constexpr (hn::MaxLanes(tag) == hn::MaxLanes(d)) {
      sum = hn::Add(sum, weight);
    } else {
      rest += hn::GetLane(weight);
    }
  });
  return static_cast<double>(hn::GetLane(hn::SumOfLanes(d, sum))) + static_cast<double>(rest);
}

RowStatistics row_statistics(const float* x, int64_t n) {
  RowStatistics result;
  Softmax softmax{.max = -kInfinity};
  double sum = 0.0;
  int64_t best = 0;  // the block where the maximum first is
  bool has_nan = false;
  for (int64_t begin = 0; begin < n; begin += kSumBlock) {
    const int64_t count = std::min(kSumBlock, n - begin);
    const float max = largest(x + begin, count, has_nan);
    if (max > softmax.max) {
      sum *= std::exp(static_cast<double>(softmax.max) - static_cast<double>(max));
      softmax.max = max;
      best = begin;
    }
    if (softmax.max > -kInfinity) sum += sum_of_weights(x + begin, count, softmax);
  }
  result.max = softmax.max;
  result.is_usable = !has_nan && std::isfinite(softmax.max) ? 1 : 0;
  result.log_sum_exp = static_cast<double>(softmax.max) + std::log(sum);
  const float* found = std::find(x + best, x + n, softmax.max);
  result.argmax = found == x + n ? 0 : static_cast<int32_t>(found - x);
  return result;
}

bool block_maxima(const float* x, int64_t n, int64_t block, float* maxima) {
  bool has_nan = false;
  for (int64_t begin = 0; begin < n; begin += block) {
    *maxima++ = largest(x + begin, std::min(block, n - begin), has_nan);
  }
  return !has_nan;
}

int64_t collect(const float* x, int64_t n, int64_t block, const float* maxima, float threshold,
                float* values, int32_t* indices) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<int32_t, decltype(d)> di;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t count = 0;
  for (int64_t begin = 0; begin < n; begin += block) {
    if (!(*maxima++ >= threshold)) continue;
    const int64_t end = std::min(n, begin + block);
    int64_t i = begin;
    for (; i + lanes <= end; i += lanes) {
      const auto from = hn::LoadU(d, x + i);
      const auto is_in = hn::Ge(from, hn::Set(d, threshold));
      if (hn::AllFalse(d, is_in)) continue;
      // Whole vectors, packed in registers: storing under a mask is slow on some processors.
      hn::StoreU(hn::Compress(from, is_in), d, values + count);
      const auto at = hn::Iota(di, static_cast<int32_t>(i));
      hn::StoreU(hn::Compress(at, hn::RebindMask(di, is_in)), di, indices + count);
      count += static_cast<int64_t>(hn::CountTrue(d, is_in));
    }
    for (; i < end; ++i) {
      values[count] = x[i];
      indices[count] = static_cast<int32_t>(i);
      if (x[i] >= threshold) ++count;
    }
  }
  return count;
}

Moments moments(const float* x, int64_t n, const Softmax& softmax) {
  const hn::ScalableTag<float> d;
  Moments result;
  for (int64_t begin = 0; begin < n; begin += kSumBlock) {
    auto weights = hn::Zero(d), distances = hn::Zero(d);
    float rest_weights = 0.0f, rest_distances = 0.0f;
    for_each_vector(begin, std::min(n, begin + kSumBlock), [&](auto tag, int64_t i) HWY_ATTR {
      const auto far = distance(tag, hn::LoadU(tag, x + i), softmax);
      const auto weight = hn::Exp(tag, hn::Neg(far));
      // Infinitely far is as good as not there.
      const auto product = hn::IfThenZeroElse(hn::Eq(weight, hn::Zero(tag)), hn::Mul(far, weight));
      if constexpr (hn::MaxLanes(tag) == hn::MaxLanes(d)) {
        weights = hn::Add(weights, weight);
        distances = hn::Add(distances, product);
      } else {
        rest_weights += hn::GetLane(weight);
        rest_distances += hn::GetLane(product);
      }
    });
    result.weights += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, weights))) +
                      static_cast<double>(rest_weights);
    result.distances += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, distances))) +
                        static_cast<double>(rest_distances);
  }
  return result;
}

void weigh(const float* x, int64_t n, const Softmax& softmax, float* weights) {
  for_each_vector(0, n, [&](auto d, int64_t i) HWY_ATTR {
    store(d, hn::Exp(d, hn::Neg(distance(d, hn::LoadU(d, x + i), softmax))), weights + i);
  });
}

void block_weights(const float* x, int64_t n, const Softmax& softmax, double* sums) {
  for (int64_t begin = 0; begin < n; begin += kSumBlock) {
    *sums++ = sum_of_weights(x + begin, std::min(kSumBlock, n - begin), softmax);
  }
}

// The loops below are plain enough for the compiler's own vectors.

void descending_keys(const float* x, int64_t n, uint32_t* keys) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(x[i] + 0.0f);  // -0 becomes 0
    const uint32_t flip = static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u;
    keys[i] = ~(bits ^ flip);
  }
}

void typical_keys(const float* x, int64_t n, const Softmax& softmax, float mean, uint32_t* keys) {
  for (int64_t i = 0; i < n; ++i) {
    const float far = (softmax.max - x[i]) * softmax.inverse_temperature;
    keys[i] = std::bit_cast<uint32_t>(std::fabs(far - mean));
  }
}

void add_watermark(const float* x, int64_t n, const Watermark& watermark, float* out) {
  const Watermark mark = watermark;  // of its own: the compiler sees that `out` is elsewhere
  for (int64_t i = 0; i < n; ++i) {
    const bool green = is_green(mark.key, mark.share, static_cast<int32_t>(i));
    out[i] = x[i] + (green ? mark.delta : 0.0f);
  }
}

}  // namespace
}  // namespace lorax::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorax::cpu {

HWY_EXPORT(row_statistics);
HWY_EXPORT(block_maxima);
HWY_EXPORT(collect);
HWY_EXPORT(moments);
HWY_EXPORT(weigh);
HWY_EXPORT(block_weights);
HWY_EXPORT(descending_keys);
HWY_EXPORT(typical_keys);
HWY_EXPORT(add_watermark);

RowStatistics row_statistics(const float* x, int64_t n) {
  return HWY_DYNAMIC_DISPATCH(row_statistics)(x, n);
}

bool block_maxima(const float* x, int64_t n, int64_t block, float* maxima) {
  return HWY_DYNAMIC_DISPATCH(block_maxima)(x, n, block, maxima);
}

int64_t collect(const float* x, int64_t n, int64_t block, const float* maxima, float threshold,
                float* values, int32_t* indices) {
  return HWY_DYNAMIC_DISPATCH(collect)(x, n, block, maxima, threshold, values, indices);
}

Moments moments(const float* x, int64_t n, const Softmax& softmax) {
  return HWY_DYNAMIC_DISPATCH(moments)(x, n, softmax);
}

void weigh(const float* x, int64_t n, const Softmax& softmax, float* weights) {
  HWY_DYNAMIC_DISPATCH(weigh)(x, n, softmax, weights);
}

void block_weights(const float* x, int64_t n, const Softmax& softmax, double* sums) {
  HWY_DYNAMIC_DISPATCH(block_weights)(x, n, softmax, sums);
}

void descending_keys(const float* x, int64_t n, uint32_t* keys) {
  HWY_DYNAMIC_DISPATCH(descending_keys)(x, n, keys);
}

void typical_keys(const float* x, int64_t n, const Softmax& softmax, float mean, uint32_t* keys) {
  HWY_DYNAMIC_DISPATCH(typical_keys)(x, n, softmax, mean, keys);
}

void add_watermark(const float* x, int64_t n, const Watermark& watermark, float* out) {
  HWY_DYNAMIC_DISPATCH(add_watermark)(x, n, watermark, out);
}

}  // namespace lorax::cpu
#endif  // HWY_ONCE
