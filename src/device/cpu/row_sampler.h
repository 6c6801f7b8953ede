// What Device::sample and Device::top_logits do with one row, on one thread of the CPU.
#pragma once

#include <cstdint>

#include "device/cpu/sampling_passes.h"
#include "device/cpu/scratch.h"
#include "device/sampling.h"

namespace lorax::cpu {

// The scratch of one thread. After the first row of a length a call allocates nothing.
//
// Few ids survive the cuts of most rows. So no cut looks at all of a row if it can be helped: what
// surely falls to it is left out first, by a bound that the largest logits of blocks of the row or
// the sum of all weights give; the exact cut is made among the rest.
class RowSampler {
 public:
  // The token, or -1 if the row x [n] is not usable.
  int32_t sample(const float* x, int64_t n, const SampledRow& row);
  // `count` places of out.
  void top(const float* x, int64_t n, int64_t count, TopLogit* out);

 private:
  // Room for rows of n elements.
  void prepare(int64_t n);

  // A number that at least `count` elements of the row reach, as close as the maxima say.
  float reached_by(int64_t count);
  // The list becomes the elements of the row that reach the threshold.
  void collect_from(float threshold);
  // Leaves in the list what `keeps(i)` says of place i; it is asked in order.
  template <typename Keeps>
  void keep_if(const Keeps& keeps);
  void keep(const uint32_t* keys, uint32_t key, int64_t ties);
  // The logit at a distance from the largest.
  float at_distance(double distance) const;

  // The list becomes what top_k leaves or, without it, all that the other cuts may leave.
  void collect_candidates(const SampledRow& row);
  void cut_top_k(int64_t k);
  void cut_top_p(float p);
  void cut_typical(float p);
  void cut_min_p(float p);
  int32_t draw_from_row(double unit);
  int32_t draw_from_list(double unit);

  int64_t capacity_ = 0;
  Scratch memory_;
  // The row, with its watermark.
  const float* x_ = nullptr;
  int64_t n_ = 0;
  int64_t block_ = 0;
  Softmax softmax_;
  Moments moments_;          // of all ids that the next cut is made among
  float* row_ = nullptr;     // where the row is, if it has a watermark
  float* maxima_ = nullptr;  // of its blocks
  double* sums_ = nullptr;   // of blocks of weights
  // The list: ids that are left, in ascending order, their logits and weights.
  int64_t size_ = 0;
  float* logits_ = nullptr;
  int32_t* ids_ = nullptr;
  float* weights_ = nullptr;
  // Of the cuts.
  uint32_t* keys_ = nullptr;
  uint32_t* left_keys_ = nullptr;
  float* left_weights_ = nullptr;
};

}  // namespace lorax::cpu
