#include "reference_ops.h"

#include <algorithm>
#include <cmath>

namespace lorax::testing::reference {
namespace {

size_t index(int64_t i) { return static_cast<size_t>(i); }

constexpr double kUnit = 0x1p-24;  // what float32 rounds by
// What n additions one after the other round by, in units of the largest partial sum: each by up to
// half a unit in the last place, in either direction, and of many sums the worst lies some
// deviations out.
double chain_units(int64_t additions) { return 2.0 * std::sqrt(static_cast<double>(additions)); }

// Relative roundings: of the scaling; of a capped score, with the division by the cap, a tanh of 4
// ulp (as Highway documents its own) and the multiplication; of a weight, with an exp of 1 ulp, the
// sum that it is divided by and its product with a value.
constexpr double kScaleUnits = 1.0;
constexpr double kCapUnits = 1.0 + 8.0 + 1.0;
constexpr double kWeightUnits = 6.0;

}  // namespace

Values embedding(const std::vector<int>& ids, const Values& table, int64_t width, double scale) {
  Values out;
  for (int id : ids) {
    for (int64_t i = 0; i < width; ++i) out.push_back(table[index(id * width + i)] * scale);
  }
  return out;
}

Values rms_norm(const Values& x, const Values& weight, double eps) {
  Values out(x.size());
  const size_t width = weight.size();
  for (size_t row = 0; row < x.size(); row += width) {
    double sum = 0.0;
    for (size_t i = 0; i < width; ++i) sum += x[row + i] * x[row + i];
    const double rms = std::sqrt(sum / static_cast<double>(width) + eps);
    for (size_t i = 0; i < width; ++i) out[row + i] = x[row + i] / rms * weight[i];
  }
  return out;
}

Values linear(const Values& x, const Values& weight, int64_t n) {
  Values out;
  for (size_t row = 0; row < x.size(); row += index(n)) {
    for (size_t m = 0; m < weight.size(); m += index(n)) {
      double sum = 0.0;
      for (size_t i = 0; i < index(n); ++i) sum += x[row + i] * weight[m + i];
      out.push_back(sum);
    }
  }
  return out;
}

void add_low_rank(const Values& x, int64_t n, const LowRank& factors, const std::vector<bool>& has,
                  int64_t m, Values& y) {
  const size_t width = static_cast<size_t>(n), outputs = static_cast<size_t>(m);
  const size_t rank = factors.a.size() / width;
  for (size_t row = 0; row < has.size(); ++row) {
    if (!has[row]) continue;
    for (size_t j = 0; j < outputs; ++j) {
      double delta = 0.0;
      for (size_t k = 0; k < rank; ++k) {
        double h = 0.0;
        for (size_t i = 0; i < width; ++i) h += factors.a[k * width + i] * x[row * width + i];
        delta += factors.b[j * rank + k] * h * factors.scale;
      }
      double& value = y[row * outputs + j];
      value += delta;
      if (!factors.bias.empty()) value += factors.bias[j];
      if (!factors.gain.empty()) value *= factors.gain[j];
    }
  }
}

Values add_silu(const Values& x, const Values& h, const Values& bias) {
  Values out(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double z = h[i] + bias[i % bias.size()];
    out[i] = x[i] + z / (1.0 + std::exp(-z));
  }
  return out;
}

Values rotary(const Values& x, const std::vector<int>& positions, const Values& cos,
              const Values& sin, int64_t heads, int64_t head_size) {
  Values out(x.size());
  const int64_t half = head_size / 2;
  for (size_t t = 0; t < positions.size(); ++t) {
    for (int64_t head = 0; head < heads; ++head) {
      const size_t at = (t * index(heads) + index(head)) * index(head_size);
      for (int64_t i = 0; i < half; ++i) {
        const double c = cos[index(positions[t] * half + i)];
        const double s = sin[index(positions[t] * half + i)];
        const double x1 = x[at + index(i)];
        const double x2 = x[at + index(i + half)];
        out[at + index(i)] = x1 * c - x2 * s;
        out[at + index(i + half)] = x2 * c + x1 * s;
      }
    }
  }
  return out;
}

Values gelu_tanh_mul(const Values& gate_up, int64_t columns) {
  Values out;
  for (size_t row = 0; row < gate_up.size(); row += index(2 * columns)) {
    for (size_t i = row; i < row + index(columns); ++i) {
      const double x = gate_up[i];
      const double inner = std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x);
      out.push_back(0.5 * x * (1.0 + std::tanh(inner)) * gate_up[i + index(columns)]);
    }
  }
  return out;
}

Values softcap(const Values& x, double cap) {
  Values out;
  for (double value : x) out.push_back(cap * std::tanh(value / cap));
  return out;
}

Values attention(const Values& q, const Values& k, const Values& v, const AttentionShape& shape,
                 const AttentionOptions& options, Values* bounds) {
  const int64_t d = shape.head_size;
  const int64_t rows = static_cast<int64_t>(q.size()) / (shape.heads * d);
  const int64_t length = static_cast<int64_t>(k.size()) / (shape.kv_heads * d);
  Values out(q.size(), 0.0);
  if (bounds != nullptr) bounds->assign(q.size(), 0.0);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t position = length - rows + row;
    const int64_t first =
        options.window > 0 ? std::max<int64_t>(0, position - options.window + 1) : 0;
    for (int64_t head = 0; head < shape.heads; ++head) {
      const int64_t kv_head = head / (shape.heads / shape.kv_heads);
      const size_t q_at = index((row * shape.heads + head) * d);
      Values weights, errors;
      for (int64_t key = first; key <= position; ++key) {
        const size_t k_at = index((key * shape.kv_heads + kv_head) * d);
        double score = 0.0, squares = 0.0;
        for (size_t i = 0; i < index(d); ++i) {
          const double product = q[q_at + i] * k[k_at + i];
          score += product;
          squares += product * product;
        }
        score *= static_cast<double>(options.scale);
        double slope = 1.0, units = kScaleUnits;
        if (options.softcap > 0.0f) {
          score = static_cast<double>(options.softcap) *
                  std::tanh(score / static_cast<double>(options.softcap));
          slope = 1.0 - std::pow(score / static_cast<double>(options.softcap), 2.0);
          units += kCapUnits;
        }
        weights.push_back(score);
        errors.push_back(chain_units(d) * kUnit * std::sqrt(squares) *
                             static_cast<double>(options.scale) * slope +
                         units * kUnit * std::abs(score));
      }
      const double top = *std::max_element(weights.begin(), weights.end());
      // The difference to the maximum rounds, and so does exp.
      for (size_t i = 0; i < weights.size(); ++i) {
        errors[i] += (kWeightUnits + top - weights[i]) * kUnit;
      }
      double sum = 0.0;
      for (double& weight : weights) sum += weight = std::exp(weight - top);
      for (int64_t key = first; key <= position; ++key) {
        const size_t v_at = index((key * shape.kv_heads + kv_head) * d);
        const double weight = weights[index(key - first)] / sum;
        for (size_t i = 0; i < index(d); ++i) out[q_at + i] += weight * v[v_at + i];
      }
      const double sum_units = kWeightUnits + chain_units(position - first + 1);
      for (int64_t key = first; key <= position && bounds != nullptr; ++key) {
        const size_t v_at = index((key * shape.kv_heads + kv_head) * d);
        const double weight = weights[index(key - first)] / sum;
        const double error = errors[index(key - first)];
        for (size_t i = 0; i < index(d); ++i) {
          (*bounds)[q_at + i] += weight * (error * std::abs(v[v_at + i] - out[q_at + i]) +
                                           sum_units * kUnit * std::abs(v[v_at + i]));
        }
      }
    }
  }
  return out;
}

}  // namespace lorax::testing::reference
