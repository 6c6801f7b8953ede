// The softmax of attention_prefill_hopper.cu: a tile's scores become weights, in place.
//
// scores[4 j + i] belongs to key 8 j + 2 t + i % 2 of the tile and, for i / 2 = 0 or 1, to the row
// g or g + 8 of the warp's sixteen. hide(scores, x) overwrites with x those of keys that their row
// does not see. It chooses, and never calculates: such a score may be NaN.
#pragma once

#include "device/cuda/attention/attention_tile.cuh"

namespace lorax::cuda {

// Of capped scores: |score| <= cap makes e^score a weight as it is, without a running maximum, if
// sums of such weights stay within float32, and weights within the type they are rounded to: it is
// not for float16. The base that weights are relative to does not change their relative error.
struct BoundedSoftmax {
  // In units of log2: weights reach 2^80, their sums with values of up to 2^30 stay below 2^127.
  static constexpr float kMaxCap = 80.0f;

  ScoreTransform transform;
  float sums[2] = {};  // of the lane's weights

  __device__ BoundedSoftmax(float scale, float softcap) : transform(scale, softcap) {}

  // A tile's scores become weights.
  template <int kSize, typename Hide>
  __device__ void weigh(float (&scores)[kSize], const Hide& hide) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) scores[i] = exp2_fast(transform.capped(scores[i]));
    hide(scores, 0.0f);
  }

  template <int kSize>
  __device__ void rescale(float (&)[kSize]) {}
};

// Of any scores: exponents are relative to a running base, which follows the row's maximum when
// that has grown past it by more than kSlack. Weights are then at most 2^kSlack, and the largest is
// at least 1: what float16 rounds to zero, below 2^-25, is nothing beside it.
template <bool kCapped>
struct RunningSoftmax {
  static constexpr float kSlack = 8.0f;

  ScoreTransform transform;
  float bases[2] = {-INFINITY, -INFINITY};
  float sums[2] = {};                // of the lane's weights
  float rescales[2] = {1.0f, 1.0f};  // of sums and products of earlier tiles

  __device__ RunningSoftmax(float scale, float softcap) : transform(scale, softcap) {}

  // A tile's scores become weights.
  template <int kSize, typename Hide>
  __device__ void weigh(float (&scores)[kSize], const Hide& hide) {
    if constexpr (kCapped) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) scores[i] = transform.capped(scores[i]);
    }
    hide(scores, -INFINITY);
    const float factor = kCapped ? 1.0f : transform.factor;  // still to be multiplied with
    float tops[2][2] = {{-INFINITY, -INFINITY}, {-INFINITY, -INFINITY}};
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      float& top = tops[i / 2 % 2][i % 2];
      top = fmaxf(top, scores[i]);
    }
    float relative_to[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float top = row_max(fmaxf(tops[row][0], tops[row][1])) * factor;
      const float base = top > bases[row] + kSlack ? top : bases[row];
      relative_to[row] = base == -INFINITY ? 0.0f : base;
      rescales[row] = base == bases[row] ? 1.0f : exp2_fast(bases[row] - relative_to[row]);
      bases[row] = base;
      sums[row] *= rescales[row];
    }
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      scores[i] = exp2_fast(fmaf(scores[i], factor, -relative_to[i / 2 % 2]));
    }
  }

  // Of the products with earlier tiles' weights.
  template <int kSize>
  __device__ void rescale(float (&products)[kSize]) {
    if (!__any_sync(0xffffffffu, rescales[0] != 1.0f || rescales[1] != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < kSize; ++i) products[i] *= rescales[i / 2 % 2];
  }
};

// As the products with the values read them.
template <typename T, int kSize>
__device__ void round_weights(uint32_t (&weights)[kSize / 2], const float (&scores)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize / 2; ++i) {
    weights[i] = pack<T>(scores[2 * i], scores[2 * i + 1]);
  }
}

// sums[..] += the weights of each of the lane's two rows, as rounded: what multiplies the values
// then adds up to one, although not even the largest weight is a 1 that rounding would spare.
template <typename T, int kSize>
__device__ void add_weights(float (&sums)[2], const uint32_t (&weights)[kSize]) {
  float parts[4] = {};
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    const float2 pair = unpack<T>(weights[i]);
    parts[i % 2] += pair.x;
    parts[2 + i % 2] += pair.y;
  }
  sums[0] += parts[0] + parts[2];
  sums[1] += parts[1] + parts[3];
}

}  // namespace lorax::cuda
