#include "adapters/peft/device_base_weights.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace lorax {
namespace {

// Elements compared at a time.
constexpr int64_t kPiece = int64_t{1} << 20;
// What a norm is estimated from.
constexpr int64_t kNormPieces = 8;
constexpr int64_t kNormRows = 4;

}  // namespace

std::vector<float> DeviceBaseWeights::rows(size_t module, int64_t first, int64_t count) const {
  const Tensor part = modules_[module].weight.slice(0, first, first + count);
  std::vector<float> values(static_cast<size_t>(part.numel()));
  const void* data = part.data;
  std::vector<char> copy;
  if (!device_.memory_is_host()) {
    copy.resize(part.bytes());
    device_.download(copy.data(), part.data, copy.size());
    data = copy.data();
  }
  convert(data, part.dtype, values.data(), DType::kFloat32, values.size());
  return values;
}

double DeviceBaseWeights::norm(size_t module) const {
  {
    const std::lock_guard lock(mutex_);
    const auto found = norms_.find(module);
    if (found != norms_.end()) return found->second;
  }
  const int64_t all = modules_[module].weight.dim(0);
  const int64_t pieces = std::min(kNormPieces, (all + kNormRows - 1) / kNormRows);
  double squares = 0.0;
  int64_t taken = 0;
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t first = all * piece / pieces;
    const int64_t count = std::min(kNormRows, all - first);
    for (float value : rows(module, first, count)) squares += double{value} * value;
    taken += count;
  }
  const double norm = std::sqrt(squares * static_cast<double>(all) / static_cast<double>(taken));
  const std::lock_guard lock(mutex_);
  return norms_.try_emplace(module, norm).first->second;
}

bool DeviceBaseWeights::equals(size_t module, const HostTensor& weight) const {
  const Tensor& base = modules_[module].weight;
  LORAX_CHECK(base.rank == 2 && weight.elements() == base.numel());
  const int64_t columns = base.dim(1);
  const int64_t step = std::max<int64_t>(1, kPiece / columns);
  for (int64_t row = 0; row < base.dim(0); row += step) {
    const int64_t count = std::min(step, base.dim(0) - row);
    const std::vector<float> ours = rows(module, row, count);
    const std::byte* theirs =
        weight.data.get() + row * columns * static_cast<int64_t>(size_of(weight.dtype));
    std::vector<char> rounded(ours.size() * size_of(base.dtype));
    convert(theirs, weight.dtype, rounded.data(), base.dtype, ours.size());
    std::vector<float> values(ours.size());
    convert(rounded.data(), base.dtype, values.data(), DType::kFloat32, values.size());
    if (ours != values) return false;
  }
  return true;
}

std::optional<size_t> DeviceBaseWeights::tied_to(size_t module) const {
  for (size_t other = 0; other < modules_.size(); ++other) {
    if (other != module && modules_[other].weight.data == modules_[module].weight.data &&
        modules_[other].weight.numel() == modules_[module].weight.numel()) {
      return other;
    }
  }
  return std::nullopt;
}

}  // namespace lorax
