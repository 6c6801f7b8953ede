// The passes over one row of logits that sampling is made of, with the widest vectors this
// processor has. A weight is e^(-d) with d = (max - x) * inverse_temperature, where max is the
// largest x: the probability of x but for a factor.
#pragma once

#include <cstdint>

#include "device/sampling.h"

namespace lorax::cpu {

// Arrays that the passes write have room for this many elements more than they are given.
inline constexpr int64_t kPassPadding = 64;
// Elements whose weights are added up in float32 before they join a sum in double.
inline constexpr int64_t kSumBlock = 1024;

struct Softmax {
  float max = 0.0f;
  float inverse_temperature = 1.0f;
};

RowStatistics row_statistics(const float* x, int64_t n);

// maxima[i] = the largest of x[i * block, (i + 1) * block); block is a multiple of 16. Returns
// false if there is a NaN.
bool block_maxima(const float* x, int64_t n, int64_t block, float* maxima);

// The elements at or above `threshold`, in order, and their indices; reads the blocks only whose
// maxima are. Returns how many there are.
int64_t collect(const float* x, int64_t n, int64_t block, const float* maxima, float threshold,
                float* values, int32_t* indices);

// Sums of all weights, and of d * weight.
struct Moments {
  double weights = 0.0;
  double distances = 0.0;
};
Moments moments(const float* x, int64_t n, const Softmax& softmax);

void weigh(const float* x, int64_t n, const Softmax& softmax, float* weights);
// sums[i] = sum of the weights of x[i * kSumBlock, (i + 1) * kSumBlock).
void block_weights(const float* x, int64_t n, const Softmax& softmax, double* sums);

// Numbers whose ascending order is the descending order of x.
void descending_keys(const float* x, int64_t n, uint32_t* keys);
// Numbers whose ascending order is that of |d - mean|.
void typical_keys(const float* x, int64_t n, const Softmax& softmax, float mean, uint32_t* keys);

// out[i] = x[i] + (i is green ? delta : 0).
void add_watermark(const float* x, int64_t n, const Watermark& watermark, float* out);

}  // namespace lorax::cpu
