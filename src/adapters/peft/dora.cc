#include "adapters/peft/dora.h"

#include <algorithm>
#include <cmath>

namespace lorax {
namespace {

constexpr int64_t kRowsAtATime = 64;

// row[i] += sum over k of factors[k * stride] * matrix[k][i].
void add_product(const float* factors, int64_t stride, const std::vector<float>& matrix,
                 int64_t rank, int64_t width, float* row) {
  for (int64_t k = 0; k < rank; ++k) {
    const float factor = factors[k * stride];
    const float* from = matrix.data() + k * width;
    for (int64_t i = 0; i < width; ++i) row[i] += factor * from[i];
  }
}

std::vector<float> own_rows(const HostTensor& weight, int64_t first, int64_t count) {
  const int64_t columns = weight.shape[1];
  std::vector<float> rows(static_cast<size_t>(count * columns));
  convert(weight.data.get() + first * columns * static_cast<int64_t>(size_of(weight.dtype)),
          weight.dtype, rows.data(), DType::kFloat32, rows.size());
  return rows;
}

}  // namespace

std::vector<float> dora_gain(
    const LoraWeights& weights, const AdapterModule& module, const HostTensor* own,
    const std::function<std::vector<float>(int64_t first, int64_t count)>& base_rows) {
  const bool is_embedding = module.kind == AdapterModule::Kind::kEmbedding;
  const int64_t rows = is_embedding ? module.in : module.out;
  const int64_t width = is_embedding ? module.out : module.in;
  const int64_t rank = weights.rank;
  // The change of row r: the sum over k of scale * left[r][k] * right[k].
  std::vector<float> left = (is_embedding ? weights.a : weights.b).floats();
  std::vector<float> right = (is_embedding ? weights.b : weights.a).floats();
  if (is_embedding) {  // B [D, r] -> [r, D]; A [r, V] stays, and is read with a stride
    std::vector<float> transposed(right.size());
    for (int64_t i = 0; i < width; ++i) {
      for (int64_t k = 0; k < rank; ++k) {
        transposed[static_cast<size_t>(k * width + i)] = right[static_cast<size_t>(i * rank + k)];
      }
    }
    right = std::move(transposed);
  }
  for (float& value : left) value *= weights.scale;

  std::vector<double> squares(static_cast<size_t>(module.out), 0.0);
  for (int64_t first = 0; first < rows; first += kRowsAtATime) {
    const int64_t count = std::min(kRowsAtATime, rows - first);
    std::vector<float> piece =
        own != nullptr ? own_rows(*own, first, count) : base_rows(first, count);
    for (int64_t r = 0; r < count; ++r) {
      float* row = piece.data() + r * width;
      const int64_t at = first + r;
      add_product(left.data() + (is_embedding ? at : at * rank), is_embedding ? rows : 1, right,
                  rank, width, row);
      for (int64_t i = 0; i < width; ++i) {
        squares[static_cast<size_t>(is_embedding ? i : at)] += static_cast<double>(row[i]) * row[i];
      }
    }
  }
  std::vector<float> gain = weights.magnitude.floats();
  for (size_t i = 0; i < gain.size(); ++i) {
    gain[i] /= static_cast<float>(std::sqrt(squares[i]));
  }
  return gain;
}

}  // namespace lorax
