#include "nn/weights.h"

#include <algorithm>
#include <exception>
#include <mutex>

#include "base/error.h"

namespace lorax {
namespace {

// Elements read by one thread at a time: small beside any model, large enough for a disk.
constexpr int64_t kChunk = int64_t{4} << 20;

}  // namespace

Weights Weights::operator[](std::string_view name) const {
  return Weights(*store_, full_name(name));
}

std::string Weights::full_name(std::string_view name) const {
  return prefix_.empty() ? std::string(name) : fmt::format("{}.{}", prefix_, name);
}

Tensor Weights::matrix(std::string_view name, int64_t rows, int64_t columns) const {
  const WeightStore::Piece piece{full_name(name) + ".weight", rows};
  return store_->load_matrix({&piece, 1}, columns);
}

Tensor Weights::stacked(std::span<const Part> parts, int64_t columns) const {
  std::vector<WeightStore::Piece> pieces;
  for (const Part& part : parts) pieces.push_back({full_name(part.name) + ".weight", part.rows});
  return store_->load_matrix(pieces, columns);
}

Tensor Weights::vector_float32(std::string_view name, int64_t size, float offset) const {
  std::vector<float> values = store_->read_float32(full_name(name) + ".weight", size);
  for (float& value : values) value += offset;
  return store_->add_float32(values, {size});
}

WeightStore::WeightStore(Device& device, const TensorSource& source, DType dtype, Mode mode,
                         int threads, Progress progress)
    : device_(device),
      source_(source),
      dtype_(dtype),
      mode_(mode),
      pool_(threads),
      staging_(static_cast<size_t>(threads)),
      progress_(std::move(progress)) {}

Tensor WeightStore::allocate(DType dtype, std::initializer_list<int64_t> shape) {
  Tensor tensor(nullptr, dtype, shape);
  bytes_ += tensor.bytes();
  if (mode_ == Mode::kLoad) {
    buffers_.emplace_back(device_, tensor.bytes());
    tensor.data = buffers_.back().data();
  }
  return tensor;
}

Tensor WeightStore::load_matrix(std::span<const Piece> pieces, int64_t columns) {
  int64_t rows = 0;
  for (const Piece& piece : pieces) {
    source_.check(piece.name, std::array{piece.rows, columns});
    mark_used(piece.name);
    rows += piece.rows;
  }
  const Tensor tensor = allocate(dtype_, {rows, columns});
  if (mode_ == Mode::kCheck) return tensor;
  char* data = static_cast<char*>(tensor.data);
  for (const Piece& piece : pieces) {
    read_into(piece, columns, data);
    data += static_cast<size_t>(piece.rows * columns) * size_of(dtype_);
  }
  return tensor;
}

void WeightStore::read_into(const Piece& piece, int64_t columns, char* device_data) {
  const int64_t total = piece.rows * columns;
  const size_t element = size_of(dtype_);
  char* host = device_.memory_is_host() ? static_cast<char*>(device_data) : nullptr;
  std::exception_ptr error;
  std::mutex mutex;
  pool_.parallel_for((total + kChunk - 1) / kChunk, [&](int64_t chunk, int thread) {
    const int64_t first = chunk * kChunk;
    const int64_t count = std::min(kChunk, total - first);
    const size_t offset = static_cast<size_t>(first) * element;
    const size_t bytes = static_cast<size_t>(count) * element;
    try {
      if (host != nullptr) {
        source_.read(piece.name, first, count, dtype_, host + offset);
      } else {
        HostBuffer& staging = staging_[static_cast<size_t>(thread)];
        if (staging.data() == nullptr) staging = HostBuffer(device_, kChunk * element);
        source_.read(piece.name, first, count, dtype_, staging.data());
        device_.upload(device_data + offset, staging.data(), bytes);
      }
      const std::lock_guard lock(mutex);
      read_bytes_ += bytes;
      if (progress_) progress_(read_bytes_);
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
}

std::vector<float> WeightStore::read_float32(const std::string& name, int64_t size) {
  source_.check(name, std::array{size});
  mark_used(name);
  std::vector<float> values(static_cast<size_t>(size));
  if (mode_ == Mode::kLoad) source_.read(name, 0, size, DType::kFloat32, values.data());
  return values;
}

Tensor WeightStore::add_float32(std::span<const float> values,
                                std::initializer_list<int64_t> shape) {
  const Tensor tensor = allocate(DType::kFloat32, shape);
  LORAX_CHECK(tensor.bytes() == values.size_bytes());
  if (mode_ == Mode::kLoad) {
    device_.upload(tensor.data, values.data(), values.size_bytes());
  }
  return tensor;
}

int64_t WeightStore::add_module(AdapterModule module) {
  modules_.push_back(std::move(module));
  return static_cast<int64_t>(modules_.size()) - 1;
}

void WeightStore::finish() {
  for (HostBuffer& staging : staging_) staging = HostBuffer();
  std::vector<std::string> unused = source_.names();
  std::erase_if(unused, [&](const std::string& name) { return used_.contains(name); });
  if (unused.empty()) return;
  fail(
      "{}: tensor {}{} is not part of this model; the checkpoint is of another architecture, or "
      "its config.json is (num_hidden_layers, tie_word_embeddings)",
      source_.describe(), unused.front(),
      unused.size() > 1 ? fmt::format(" (and {} more)", unused.size() - 1) : "");
}

}  // namespace lorax
