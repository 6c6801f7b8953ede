#include "nn/tensor_source.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <fmt/ranges.h>

#include "base/error.h"
#include "base/mix64.h"

namespace lorax {
namespace {

// Elements converted at a time: the staging stays in the L2 cache.
constexpr int64_t kStaging = 64 << 10;

// FNV-1a.
uint64_t hash(std::string_view text) {
  uint64_t h = 0xcbf29ce484222325u;
  for (char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

}  // namespace

std::string CheckpointSource::describe() const { return checkpoint_.directory().string(); }

bool CheckpointSource::contains(const std::string& name) const {
  return checkpoint_.find(name) != nullptr;
}

void CheckpointSource::check(const std::string& name, std::span<const int64_t> shape) const {
  const TensorInfo* tensor = checkpoint_.find(name);
  if (tensor == nullptr) {
    fail("{}: tensor {} is missing; the checkpoint is incomplete or of another architecture",
         describe(), name);
  }
  if (!std::ranges::equal(tensor->shape, shape)) {
    fail(
        "{}: tensor {} has the shape [{}], but config.json asks for [{}]; they are of different "
        "models",
        describe(), name, fmt::join(tensor->shape, ", "), fmt::join(shape, ", "));
  }
  const bool readable = tensor->dtype == DType::kFloat32 || tensor->dtype == DType::kBFloat16 ||
                        tensor->dtype == DType::kFloat16;
  if (!readable) {
    fail("{}: tensor {} is of type {}; weights can be F32, BF16 or F16", describe(), name,
         tensor->dtype_name);
  }
}

std::vector<std::string> CheckpointSource::names() const { return checkpoint_.names(); }

void CheckpointSource::read(const std::string& name, int64_t first, int64_t count, DType dtype,
                            void* to) const {
  const DType stored = *checkpoint_.find(name)->dtype;
  const uint64_t width = size_of(stored);
  if (stored == dtype) {
    checkpoint_.read(name, static_cast<uint64_t>(first) * width,
                     static_cast<uint64_t>(count) * width, to);
    return;
  }
  std::vector<char> staging(static_cast<size_t>(std::min(count, kStaging)) * width);
  char* out = static_cast<char*>(to);
  for (int64_t done = 0; done < count;) {
    const int64_t n = std::min(count - done, kStaging);
    checkpoint_.read(name, static_cast<uint64_t>(first + done) * width,
                     static_cast<uint64_t>(n) * width, staging.data());
    convert(staging.data(), stored, out, dtype, static_cast<size_t>(n));
    out += static_cast<size_t>(n) * size_of(dtype);
    done += n;
  }
}

void RandomSource::read(const std::string& name, int64_t first, int64_t count, DType dtype,
                        void* to) const {
  // Uniform on [-a, a) has the standard deviation a / sqrt(3).
  const float deviation = name.find("norm") != std::string::npos ? 0.1f : 0.02f;
  const float scale = deviation * std::sqrt(3.0f) / 32768.0f;
  const uint64_t stream = mix64(seed_ ^ hash(name));
  std::vector<float> staging(static_cast<size_t>(std::min(count, kStaging)));
  char* out = static_cast<char*>(to);
  for (int64_t done = 0; done < count;) {
    const int64_t n = std::min(count - done, kStaging);
    for (int64_t i = 0; i < n; ++i) {
      // Four 16-bit values of each hash.
      const uint64_t index = static_cast<uint64_t>(first + done + i);
      const uint64_t bits = mix64(stream + (index >> 2)) >> (16 * (index & 3));
      staging[static_cast<size_t>(i)] = (static_cast<float>(bits & 0xffff) - 32767.5f) * scale;
    }
    convert(staging.data(), DType::kFloat32, out, dtype, static_cast<size_t>(n));
    out += static_cast<size_t>(n) * size_of(dtype);
    done += n;
  }
}

}  // namespace lorax
