#include "sampling_reference.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

namespace lorax::testing::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// softmax over what is above -infinity.
Values softmax(const Values& scores) {
  const double max = *std::ranges::max_element(scores);
  Values p(scores.size());
  std::ranges::transform(scores, p.begin(), [&](double s) { return std::exp(s - max); });
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= sum;
  return p;
}

// The ids above -infinity, in ascending order of key, then of id.
std::vector<size_t> order_of(const Values& scores, const std::function<double(size_t)>& key) {
  std::vector<size_t> order;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] > -kInfinity) order.push_back(i);
  }
  std::ranges::stable_sort(order, {}, key);
  return order;
}

// How many of `order` it takes to reach p; one at least.
size_t count_to_reach(const std::vector<size_t>& order, const Values& probabilities, double p) {
  double sum = 0.0;
  for (size_t count = 0; count < order.size(); ++count) {
    sum += probabilities[order[count]];
    if (sum >= p) return count + 1;
  }
  return order.size();
}

void keep(Values& scores, const std::function<bool(size_t)>& is_in) {
  for (size_t i = 0; i < scores.size(); ++i) {
    if (!is_in(i)) scores[i] = -kInfinity;
  }
}

void cut_top_k(Values& scores, size_t k) {
  Values sorted = scores;
  std::ranges::sort(sorted, std::greater<>());
  const double last = sorted[std::min(k, sorted.size()) - 1];
  keep(scores, [&](size_t i) { return scores[i] >= last; });
}

void cut_top_p(Values& scores, double p) {
  const std::vector<size_t> order = order_of(scores, [&](size_t i) { return -scores[i]; });
  const size_t count = count_to_reach(order, softmax(scores), p);
  std::vector<bool> is_in(scores.size());
  for (size_t i = 0; i < count; ++i) is_in[order[i]] = true;
  keep(scores, [&](size_t i) { return is_in[i]; });
}

void cut_typical(Values& scores, double p) {
  const Values probability = softmax(scores);
  double entropy = 0.0;
  for (double value : probability) entropy -= value > 0.0 ? value * std::log(value) : 0.0;
  const auto key = [&](size_t i) { return std::abs(-std::log(probability[i]) - entropy); };
  const std::vector<size_t> order = order_of(scores, key);
  const double last = key(order[count_to_reach(order, probability, p) - 1]);
  // Equal logits have equal keys, as far as this arithmetic goes.
  keep(scores, [&](size_t i) { return key(i) <= last * (1.0 + 1e-12); });
}

void cut_min_p(Values& scores, double p) {
  const Values probability = softmax(scores);
  const double most = *std::ranges::max_element(probability);
  keep(scores, [&](size_t i) { return probability[i] >= p * most; });
}

// With the cuts moved a little: p times `factor`.
Values moved_probabilities(const Values& logits, const SampledRow& row, double factor) {
  Values scores = logits;
  for (double& score : scores) score /= static_cast<double>(row.temperature);
  if (row.top_k > 0) cut_top_k(scores, static_cast<size_t>(row.top_k));
  if (row.top_p < 1.0f) cut_top_p(scores, row.top_p * factor);
  if (row.typical_p < 1.0f) cut_typical(scores, row.typical_p * factor);
  if (row.min_p > 0.0f) cut_min_p(scores, row.min_p * factor);
  return softmax(scores);
}

}  // namespace

Values add_watermark(const Values& logits, const Watermark& watermark) {
  Values out = logits;
  for (size_t i = 0; i < out.size(); ++i) {
    if (is_green(watermark.key, watermark.share, static_cast<int32_t>(i))) {
      out[i] += static_cast<double>(watermark.delta);
    }
  }
  return out;
}

Values probabilities(const Values& logits, const SampledRow& row) {
  return moved_probabilities(logits, row, 1.0);
}

std::vector<bool> possible_draws(const Values& logits, const SampledRow& row, double slack) {
  std::vector<bool> possible(logits.size());
  for (const double factor : {1.0, 1.0 - slack, 1.0 + slack}) {
    const Values p = moved_probabilities(logits, row, factor);
    double sum = 0.0;
    for (size_t i = 0; i < p.size(); ++i) {
      const double begin = sum;
      sum += p[i];
      if (p[i] > 0.0 && begin - slack <= row.unit && row.unit < sum + slack) possible[i] = true;
    }
  }
  return possible;
}

double edited(double logit, const LogitEdit& edit, const EditedRow& row) {
  const Watermark& mark = row.watermark;
  const double gain =
      is_green(mark.key, mark.share, edit.id) ? static_cast<double>(mark.delta) : 0.0;
  double x = logit + gain;
  const double repetition = static_cast<double>(row.repetition_penalty);
  if (edit.seen != 0) x = x > 0.0 ? x / repetition : x * repetition;
  x -= edit.count * static_cast<double>(row.frequency_penalty);
  if (edit.count > 0) x -= static_cast<double>(row.presence_penalty);
  return x + static_cast<double>(edit.bias) - gain;
}

}  // namespace lorax::testing::reference
