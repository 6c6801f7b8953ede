#include "device/cpu/row_sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "device/cpu/order_cut.h"

namespace lorax::cpu {
namespace {

constexpr float kLowest = std::numeric_limits<float>::lowest();

int64_t blocks_of(int64_t n, int64_t block) { return (n + block - 1) / block; }

// Small enough that there are many more blocks than a usual top_k, large enough to be fast.
int64_t maxima_block(int64_t n) { return n <= 16384 ? 16 : 64; }

// Bounds leave out a little less than they might: they and the exact cuts round differently.
double with_slack(double distance) { return distance * 1.00001 + 0.001; }

}  // namespace

void RowSampler::prepare(int64_t n) {
  if (n > capacity_) {
    const size_t each = static_cast<size_t>(n + kPassPadding);
    char* at = memory_.ensure(each * (8 * sizeof(float) + sizeof(double)));
    const auto take = [&]<typename T>(T*& array) {
      array = reinterpret_cast<T*>(at);
      at += each * sizeof(T);
    };
    take(sums_);
    take(row_);
    take(maxima_);
    take(logits_);
    take(ids_);
    take(weights_);
    take(keys_);
    take(left_keys_);
    take(left_weights_);
    capacity_ = n;
  }
  n_ = n;
  block_ = maxima_block(n);
}

float RowSampler::reached_by(int64_t count) {
  const int64_t blocks = blocks_of(n_, block_);
  // With few blocks to a place the bound would be poor.
  if (count >= n_ || count > blocks / 2) return kLowest;
  std::copy_n(maxima_, blocks, left_weights_);
  std::nth_element(left_weights_, left_weights_ + count - 1, left_weights_ + blocks,
                   std::greater<>());
  return std::max(left_weights_[count - 1], kLowest);
}

void RowSampler::collect_from(float threshold) {
  size_ = collect(x_, n_, block_, maxima_, threshold, logits_, ids_);
}

template <typename Keeps>
void RowSampler::keep_if(const Keeps& keeps) {
  int64_t left = 0;
  for (int64_t i = 0; i < size_; ++i) {
    const bool stays = keeps(i);
    logits_[left] = logits_[i];
    ids_[left] = ids_[i];
    weights_[left] = weights_[i];
    if (stays) ++left;
  }
  size_ = left;
}

void RowSampler::keep(const uint32_t* keys, uint32_t key, int64_t ties) {
  keep_if([&](int64_t i) { return keys[i] < key || (keys[i] == key && ties-- > 0); });
}

void RowSampler::cut_top_k(int64_t k) {
  if (k >= size_) return;
  std::copy_n(logits_, size_, left_weights_);
  std::nth_element(left_weights_, left_weights_ + k - 1, left_weights_ + size_, std::greater<>());
  const float last = left_weights_[k - 1];
  keep_if([&](int64_t i) { return logits_[i] >= last; });
}

float RowSampler::at_distance(double distance) const {
  const double step = distance / static_cast<double>(softmax_.inverse_temperature);
  return std::max(static_cast<float>(static_cast<double>(softmax_.max) - step), kLowest);
}

// An id of probability at most (1 - p) / V is out of a set of probability p, in the order of
// logits: all such ids together have at most 1 - p. In the order of |-log p - entropy| they are
// last if they are also further off the entropy than any id that is likelier than e^-entropy can
// be.
void RowSampler::collect_candidates(const SampledRow& row) {
  if (row.top_k > 0 && row.top_k < n_) {
    collect_from(reached_by(row.top_k));
    cut_top_k(row.top_k);
    moments_ = moments(logits_, size_, softmax_);
    return;
  }
  if (row.top_p < 1.0f || row.typical_p < 1.0f) {
    moments_ = moments(x_, n_, softmax_);
    const double p = row.top_p < 1.0f ? row.top_p : row.typical_p;
    double distance = -std::log((1.0 - p) * moments_.weights / static_cast<double>(n_));
    if (row.top_p >= 1.0f) {
      distance = std::max(distance,
                          std::log(moments_.weights) + 2.0 * moments_.distances / moments_.weights);
    }
    return collect_from(at_distance(with_slack(distance)));
  }
  collect_from(row.min_p > 0.0f ? at_distance(with_slack(-std::log(row.min_p))) : kLowest);
}

void RowSampler::cut_top_p(float p) {
  descending_keys(logits_, size_, keys_);
  const OrderCut cut = cut_order(keys_, weights_, size_, static_cast<double>(p) * moments_.weights,
                                 left_keys_, left_weights_);
  keep(keys_, cut.key, cut.ties);
  moments_ = moments(logits_, size_, softmax_);
}

void RowSampler::cut_typical(float p) {
  // With d the distance from the largest, -log p = d + log of the sum of weights, so that
  // |-log p - entropy| = |d - mean of d|.
  const double mean = moments_.distances / moments_.weights;
  typical_keys(logits_, size_, softmax_, static_cast<float>(mean), keys_);
  const OrderCut cut = cut_order(keys_, weights_, size_, static_cast<double>(p) * moments_.weights,
                                 left_keys_, left_weights_);
  keep(keys_, cut.key, size_);
}

void RowSampler::cut_min_p(float p) {
  const float bound = p * *std::max_element(weights_, weights_ + size_);
  keep_if([&](int64_t i) { return weights_[i] >= bound; });
}

int32_t RowSampler::draw_from_row(double unit) {
  const int64_t blocks = blocks_of(n_, kSumBlock);
  block_weights(x_, n_, softmax_, sums_);
  double total = 0.0;
  for (int64_t i = 0; i < blocks; ++i) total += sums_[i];
  double left = unit * total;
  int64_t block = 0;
  int64_t last = 0;  // with any weight
  for (; block < blocks; ++block) {
    if (sums_[block] > 0.0) last = block;
    if (left < sums_[block]) break;
    left -= sums_[block];
  }
  const int64_t begin = std::min(block, last) * kSumBlock;
  const int64_t count = std::min(kSumBlock, n_ - begin);
  weigh(x_ + begin, count, softmax_, weights_);
  if (block == blocks) left = sums_[last];
  int64_t chosen = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (weights_[i] <= 0.0f) continue;
    chosen = i;
    left -= static_cast<double>(weights_[i]);
    if (left < 0.0) break;
  }
  return static_cast<int32_t>(begin + chosen);
}

int32_t RowSampler::draw_from_list(double unit) {
  double total = 0.0;
  for (int64_t i = 0; i < size_; ++i) total += static_cast<double>(weights_[i]);
  double left = unit * total;
  int32_t chosen = ids_[0];
  for (int64_t i = 0; i < size_; ++i) {
    if (weights_[i] <= 0.0f) continue;
    chosen = ids_[i];
    left -= static_cast<double>(weights_[i]);
    if (left < 0.0) break;
  }
  return chosen;
}

int32_t RowSampler::sample(const float* x, int64_t n, const SampledRow& row) {
  prepare(n);
  x_ = x;
  if (row.watermark.delta != 0.0f) {
    add_watermark(x, n, row.watermark, row_);
    x_ = row_;
  }
  if (row.allowed != nullptr) {
    for (int64_t i = 0; i < n; ++i) {
      const bool may_be = (row.allowed[i / 32] >> (i % 32) & 1) != 0;
      row_[i] = may_be ? x_[i] : -std::numeric_limits<float>::infinity();
    }
    x_ = row_;
  }
  const bool has_no_nan = block_maxima(x_, n, block_, maxima_);
  const int64_t blocks = blocks_of(n, block_);
  const float* best_block = std::max_element(maxima_, maxima_ + blocks);
  if (!has_no_nan || !std::isfinite(*best_block)) return -1;
  if (row.temperature == 0.0f) {
    const float* from = x_ + (best_block - maxima_) * block_;
    return static_cast<int32_t>(std::find(from, x_ + n, *best_block) - x_);
  }
  // A temperature whose reciprocal is beyond float32 leaves nothing but the largest.
  softmax_ = {
      .max = *best_block,
      .inverse_temperature = std::min(1.0f / row.temperature, std::numeric_limits<float>::max())};
  const bool cuts_k = row.top_k > 0 && row.top_k < n;
  if (!cuts_k && row.top_p >= 1.0f && row.typical_p >= 1.0f && row.min_p <= 0.0f) {
    return draw_from_row(row.unit);
  }
  collect_candidates(row);
  weigh(logits_, size_, softmax_, weights_);
  if (row.top_p < 1.0f) cut_top_p(row.top_p);
  if (row.typical_p < 1.0f) cut_typical(row.typical_p);
  if (row.min_p > 0.0f) cut_min_p(row.min_p);
  return draw_from_list(row.unit);
}

void RowSampler::top(const float* x, int64_t n, int64_t count, TopLogit* out) {
  std::fill_n(out, count, TopLogit());
  if (count == 0) return;
  prepare(n);
  x_ = x;
  block_maxima(x, n, block_, maxima_);
  collect_from(reached_by(count));
  if (size_ > count) {
    descending_keys(logits_, size_, keys_);
    std::copy_n(keys_, size_, left_keys_);
    std::nth_element(left_keys_, left_keys_ + count - 1, left_keys_ + size_);
    const uint32_t last = left_keys_[count - 1];
    const int64_t below = std::count_if(keys_, keys_ + size_, [&](uint32_t k) { return k < last; });
    keep(keys_, last, count - below);
  }
  for (int64_t i = 0; i < size_; ++i) out[i] = {ids_[i], logits_[i]};
}

}  // namespace lorax::cpu
