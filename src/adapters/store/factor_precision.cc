#include "adapters/store/factor_precision.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "adapters/peft/peft_config.h"
#include "base/check.h"

namespace lorax {
namespace {

// Values of one row of a Gram matrix's factor that are multiplied before float64 takes over.
constexpr int64_t kBlock = 64;
// Multiplications that measuring one adapter's layers may take: a quarter of a second, less than
// reading an adapter takes for which it is a bound. Embedding and head, of which few rows may be
// other than zero, have as many again.
constexpr double kMostWork = 0x1p29;
constexpr int64_t kWide = 65536;  // what only a vocabulary is
// Rows and columns that are measured at least: a square of so many elements has its norm to 5%.
constexpr int64_t kFewest = 16;
// Where factors in float16 have their largest magnitude: [2^11, 2^12). What rounding leaves of
// values down to 2^-15 of it is then a normal number, and A x has room above.
constexpr int kTopExponent = 11;
// So that scale / 2^(both exponents) stays a normal float32 number.
constexpr int kMostExponent = 60;

// Half the distance from 1 to the next number: the most by which rounding changes a number,
// relative to it.
double unit_roundoff(DType dtype) { return std::ldexp(1.0, dtype == DType::kBFloat16 ? -8 : -11); }

// The root of its mean square, for numbers spread evenly between two powers of two: an error
// spread evenly over [-u, u] has u / sqrt(3), numbers in [1, 2) have sqrt(7 / 3).
double typical_roundoff(DType dtype) { return unit_roundoff(dtype) / std::sqrt(7.0); }

// A factor as r vectors of `length` values: rows of A, or columns of B.
struct Factor {
  const HostTensor* tensor = nullptr;
  int64_t rank = 0;
  int64_t length = 0;
  bool vectors_are_rows = false;

  // Values [first, first + count) of the tensor, times `power`.
  void read(int64_t first, std::span<float> to, float power) const {
    const auto element = static_cast<int64_t>(size_of(tensor->dtype));
    convert(tensor->data.get() + first * element, tensor->dtype, to.data(), DType::kFloat32,
            to.size());
    for (float& value : to) value *= power;
  }
};

Factor factor_a(const LoraWeights& weights) {
  return {&weights.a, weights.rank, weights.a.shape[1], true};
}

Factor factor_b(const LoraWeights& weights) {
  return {&weights.b, weights.rank, weights.b.shape[0], false};
}

float largest_magnitude(const HostTensor& tensor) {
  std::array<float, 1024> values;
  const auto n = static_cast<size_t>(tensor.elements());
  float largest = 0.0f;
  for (size_t begin = 0; begin < n; begin += values.size()) {
    const size_t count = std::min(values.size(), n - begin);
    convert(tensor.data.get() + begin * size_of(tensor.dtype), tensor.dtype, values.data(),
            DType::kFloat32, count);
    for (size_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(values[i]));
  }
  return largest;
}

// Brings the largest magnitude to [2^11, 2^12).
int exponent_of(const HostTensor& tensor) {
  const float largest = largest_magnitude(tensor);
  if (largest == 0.0f) return 0;
  return std::clamp(kTopExponent - std::ilogb(largest), -kMostExponent, kMostExponent);
}

void round_to(DType dtype, const float* from, size_t count, float* to) {
  std::array<uint16_t, kBlock> words;
  convert(from, DType::kFloat32, words.data(), dtype, count);
  convert(words.data(), dtype, to, DType::kFloat32, count);
}

using Lanes = float __attribute__((vector_size(16)));
constexpr int64_t kLanes = 4;

// sums[i][j] += rows i and j, for a tile of two rows by four.
// The first `columns` of them, filled up with zeros to whole lanes.
void add_products(const float* rows, int64_t columns, int64_t i, int64_t j, int64_t count,
                  double* sums) {
  std::array<std::array<Lanes, 4>, 2> tile{};
  const auto at = [&](int64_t row, int64_t column) {
    Lanes lanes;
    std::memcpy(&lanes, rows + row * kBlock + column, sizeof(lanes));
    return lanes;
  };
  for (int64_t column = 0; column < columns; column += kLanes) {
    const Lanes first = at(i, column), second = at(i + 1, column);
    for (int64_t k = 0; k < 4; ++k) {
      const Lanes other = at(j + k, column);
      tile[0][static_cast<size_t>(k)] += first * other;
      tile[1][static_cast<size_t>(k)] += second * other;
    }
  }
  for (int64_t r = 0; r < 2; ++r) {
    for (int64_t k = 0; k < 4; ++k) {
      const Lanes& sum = tile[static_cast<size_t>(r)][static_cast<size_t>(k)];
      sums[(i + r) * count + j + k] += double{sum[0]} + sum[1] + sum[2] + sum[3];
    }
  }
}

// The inner products of a factor's 2 r vectors: the rounded ones, and what rounding left of each.
class Gram {
 public:
  Gram(const Factor& factor, DType dtype, int exponent, int64_t stride)
      : rank_(factor.rank), count_((2 * factor.rank + 3) / 4 * 4) {
    sums_.resize(static_cast<size_t>(count_ * count_));
    std::vector<float> block(static_cast<size_t>(count_ * kBlock));
    float* rows = block.data();
    for (int64_t begin = 0; begin < factor.length; begin += kBlock * stride) {
      const int64_t values = std::min(kBlock, (factor.length - begin + stride - 1) / stride);
      std::fill_n(rows, count_ * kBlock, 0.0f);
      load(factor, std::ldexp(1.0f, exponent), begin, stride, values, rows);
      split(dtype, rows);
      for (int64_t i = 0; i < count_; i += 2) {
        for (int64_t j = i / 4 * 4; j < count_; j += 4) {
          add_products(rows, values, i, j, count_, sums_.data());
        }
      }
    }
  }

  // i and j: 0 for the rounded vectors, 1 for what was left.
  double at(int part_i, int64_t i, int part_j, int64_t j) const {
    const int64_t row = part_i * rank_ + i, column = part_j * rank_ + j;
    return sums_[static_cast<size_t>(std::min(row, column) * count_ + std::max(row, column))];
  }

 private:
  // The values begin, begin + stride, ... of each vector.
  void load(const Factor& factor, float power, int64_t begin, int64_t stride, int64_t values,
            float* rows) {
    const int64_t across = factor.vectors_are_rows ? (values - 1) * stride + 1 : rank_;
    piece_.resize(static_cast<size_t>(across));
    for (int64_t k = 0; factor.vectors_are_rows && k < rank_; ++k) {
      factor.read(k * factor.length + begin, piece_, power);
      for (int64_t i = 0; i < values; ++i) {
        rows[k * kBlock + i] = piece_[static_cast<size_t>(i * stride)];
      }
    }
    for (int64_t i = 0; !factor.vectors_are_rows && i < values; ++i) {
      factor.read((begin + i * stride) * rank_, piece_, power);
      for (int64_t k = 0; k < rank_; ++k) rows[k * kBlock + i] = piece_[static_cast<size_t>(k)];
    }
  }

  void split(DType dtype, float* rows) const {
    std::array<float, kBlock> exact;
    for (int64_t k = 0; k < rank_; ++k) {
      float* high = rows + k * kBlock;
      float* low = rows + (rank_ + k) * kBlock;
      std::copy_n(high, kBlock, exact.begin());
      round_to(dtype, exact.data(), exact.size(), high);
      for (size_t i = 0; i < exact.size(); ++i) low[i] = exact[i] - high[i];
    }
  }

  int64_t rank_;
  int64_t count_;             // 2 r, filled up with zeros
  std::vector<double> sums_;  // [count, count], whole above the diagonal
  std::vector<float> piece_;
};

// The squared norm of the sum of B_p A_q over some of the pairs (p, q) of parts:
// the sum of <B_p, B_p'> <A_q, A_q'> over two of them and two ranks.
double squared_norm(const Gram& b, const Gram& a, int64_t rank,
                    std::span<const std::pair<int, int>> pairs) {
  double sum = 0.0;
  for (const auto& [p, q] : pairs) {
    for (const auto& [other_p, other_q] : pairs) {
      for (int64_t i = 0; i < rank; ++i) {
        for (int64_t j = 0; j < rank; ++j) {
          sum += b.at(p, i, other_p, j) * a.at(q, i, other_q, j);
        }
      }
    }
  }
  return sum;
}

ProductRounding measure(const LoraWeights& weights, DType dtype, const FactorForm& exponents,
                        int64_t stride) {
  constexpr std::array<std::pair<int, int>, 4> kPairs = {{{0, 0}, {0, 1}, {1, 0}, {1, 1}}};
  const Factor a = factor_a(weights), b = factor_b(weights);
  const auto stride_of = [&](const Factor& factor) {
    return std::clamp<int64_t>(factor.length / kFewest, 1, stride);
  };
  const Gram gram_a(a, dtype, exponents.exponent_a, stride_of(a));
  const Gram gram_b(b, dtype, exponents.exponent_b, stride_of(b));
  const auto reciprocal_share = [&](const Factor& factor) {
    const int64_t step = stride_of(factor);
    const int64_t taken = (factor.length + step - 1) / step;
    return static_cast<double>(factor.length) / static_cast<double>(taken);
  };
  const double whole = reciprocal_share(a) * reciprocal_share(b);
  const auto norm = [&](std::span<const std::pair<int, int>> pairs) {
    const double squared = squared_norm(gram_b, gram_a, weights.rank, pairs);
    return std::ldexp(std::sqrt(std::max(0.0, squared) * whole),
                      -(exponents.exponent_a + exponents.exponent_b));
  };
  return {.norm = norm(kPairs), .error = norm(std::span(kPairs).subspan(1))};
}

bool is_exact(const LoraWeights& weights, DType dtype) {
  return weights.a.dtype == dtype && weights.b.dtype == dtype;
}

FactorForm exponents_of(const LoraWeights& weights) {
  FactorForm form;
  form.exponent_b = exponent_of(weights.b);
  form.exponent_a = exponent_of(weights.a);
  return form;
}

// In float16 the form has exponents; bfloat16 has float32's range, and needs none.
FactorForm one_part(const FactorForm& exponents, DType dtype) {
  if (dtype != DType::kFloat16) return {};
  return exponents;
}

double norm_of(const HostTensor& tensor) {
  double sum = 0.0;
  for (float value : tensor.floats()) sum += double{value} * value;
  return std::sqrt(sum);
}

bool is_wide(const LoraWeights& weights) {
  return std::max(weights.a.shape[1], weights.b.shape[0]) >= kWide;
}

// Multiplications of a module's Gram matrices, with every row and column.
double work_of(const LoraWeights& weights) {
  return 2.0 * static_cast<double>(weights.rank) * static_cast<double>(weights.rank) *
         static_cast<double>(weights.a.shape[1] + weights.b.shape[0]);
}

// So that the work that is measured in part becomes kMostWork.
int64_t stride_for(double work) {
  return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(work / kMostWork)));
}

// A's parts, hi hi lo, one below the other; B's, hi lo hi, side by side in each row.
HostTensor stack(const Factor& factor, int exponent, int parts, DType dtype) {
  const bool is_a = factor.vectors_are_rows;
  const int64_t rows = is_a ? factor.rank : factor.length;
  const int64_t width = is_a ? factor.length : factor.rank;
  const int low_part = is_a ? 2 : 1;
  HostTensor stacked = HostTensor::allocate(
      dtype, is_a ? std::vector{parts * rows, width} : std::vector{rows, parts * width});
  std::vector<float> high(static_cast<size_t>(width)), low(high.size());
  const auto bytes = width * static_cast<int64_t>(size_of(dtype));
  for (int64_t row = 0; row < rows; ++row) {
    factor.read(row * width, low, std::ldexp(1.0f, exponent));
    std::byte* first = stacked.data.get() + (is_a ? row : row * parts) * bytes;
    convert(low.data(), DType::kFloat32, first, dtype, low.size());
    if (parts == 1) continue;
    convert(first, dtype, high.data(), DType::kFloat32, high.size());
    for (size_t i = 0; i < low.size(); ++i) low[i] -= high[i];
    for (int part = 1; part < parts; ++part) {
      const std::vector<float>& from = part == low_part ? low : high;
      convert(from.data(), DType::kFloat32, first + part * (is_a ? rows : 1) * bytes, dtype,
              from.size());
    }
  }
  return stacked;
}

}  // namespace

float scale_in(const FactorForm& form, float scale) {
  return std::ldexp(scale, -(form.exponent_a + form.exponent_b));
}

ProductRounding measure_rounding(const LoraWeights& weights, DType dtype, int64_t stride) {
  LORAX_CHECK(stride >= 1);
  if (dtype == DType::kFloat32) return {};
  return measure(weights, dtype, exponents_of(weights), stride);
}

AdapterPrecision choose_precision(const Adapter& adapter, std::span<const AdapterModule> modules,
                                  DType dtype, const WeightNorm& weight_norm) {
  AdapterPrecision precision;
  if (dtype == DType::kFloat32) return precision;
  double layers_work = 0.0;
  for (const auto& [index, weights] : adapter.lora) {
    if (!is_exact(weights, dtype) && !is_wide(weights)) layers_work += work_of(weights);
  }
  for (const auto& [index, weights] : adapter.lora) {
    LORAX_CHECK(index < modules.size());
    ModulePrecision& module = precision[index];
    if (is_exact(weights, dtype)) continue;
    const FactorForm exponents = exponents_of(weights);
    module.form = one_part(exponents, dtype);
    const int64_t stride = stride_for(is_wide(weights) ? work_of(weights) : layers_work);
    module.rounding = measure(weights, dtype, exponents, stride);
    const ProductRounding& rounding = module.rounding;
    if (rounding.error == 0.0) continue;
    const auto own = adapter.replaced.find(index);
    // A product that is worse than a number in `dtype`; or one so large that its error is more than
    // what Hugging Face makes by rounding W x before it adds the product, and we do not.
    module.needs_three_parts =
        !(rounding.error <= unit_roundoff(dtype) * rounding.norm) ||
        !(std::abs(static_cast<double>(weights.scale)) * rounding.error <=
          typical_roundoff(dtype) *
              (own != adapter.replaced.end() ? norm_of(own->second) : weight_norm(index)));
    if (module.needs_three_parts && 3 * weights.rank <= PeftConfig::kMaxRank) module.form.parts = 3;
  }
  return precision;
}

LoraWeights in_form(const LoraWeights& weights, const FactorForm& form, DType dtype) {
  LoraWeights result;
  result.rank = form.parts * weights.rank;
  result.scale = scale_in(form, weights.scale);
  result.a = stack(factor_a(weights), form.exponent_a, form.parts, dtype);
  result.b = stack(factor_b(weights), form.exponent_b, form.parts, dtype);
  return result;
}

std::string describe_precision(const AdapterPrecision& precision,
                               std::span<const AdapterModule> modules, DType dtype) {
  const auto worst = std::ranges::max_element(
      precision, {}, [](const auto& entry) { return entry.second.rounding.relative(); });
  if (worst == precision.end()) return "";
  const auto in_three =
      std::ranges::count(precision, 3, [](const auto& entry) { return entry.second.form.parts; });
  const auto refused = std::ranges::count_if(precision, [](const auto& entry) {
    return entry.second.needs_three_parts && entry.second.form.parts == 1;
  });
  std::string text = fmt::format(
      "{} changes products by at most {:.2g} ({}): {}", name_of(dtype),
      worst->second.rounding.relative(), modules[worst->first].name,
      in_three == 0 ? "factors rounded"
                    : fmt::format("{} of {} modules in three parts", in_three, precision.size()));
  if (refused > 0) {
    text +=
        fmt::format(", {} rounded that would need a rank above {}", refused, PeftConfig::kMaxRank);
  }
  return text;
}

}  // namespace lorax
