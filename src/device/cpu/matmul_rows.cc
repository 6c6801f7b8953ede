#include "device/cpu/matmul_rows.h"

namespace lorax::cpu {
namespace {

// With few rows, fewer columns at a time: their sums are soon written.
constexpr int64_t kFewRows = 64;
// Rows of x that pass by again for each column when few are streamed over: they stay in the first
// cache.
constexpr int64_t kStreamBytes = 24 << 10;

}  // namespace

void PreparedRows::fill(const MatmulKernel& kernel, int64_t row, const char* from) const {
  const int64_t element = static_cast<int64_t>(size_of(kernel.dtype));
  for (int64_t i = 0; i < n_; i += chunk_) {
    kernel.prepare(from + i * element, std::min(chunk_, n_ - i),
                   data_ + i / chunk_ * chunk_stride() + row * row_bytes_);
  }
}

namespace internal {

bool is_streamed(const PreparedRows& x) {
  return x.rows() <= MatmulKernel::kStreamRows && x.bytes() <= kStreamBytes;
}

int64_t block_columns(const PreparedRows& x) {
  return x.rows() <= kFewRows && !is_streamed(x) ? MatmulKernel::kColumns : kMaxBlockColumns;
}

void stream_block(const MatmulKernel& kernel, const PreparedRows& x, const char* weight,
                  int64_t row_bytes, int64_t columns, float* sums) {
  kernel.stream({.x = x.chunk_at(0),
                 .x_stride = x.row_stride(),
                 .chunk_stride = x.chunk_stride(),
                 .rows = x.rows(),
                 .weight = weight,
                 .weight_stride = row_bytes,
                 .columns = columns,
                 .count = x.n(),
                 .chunk = x.chunk(),
                 .sums = sums,
                 .sums_stride = kMaxBlockColumns});
}

void multiply_block(const MatmulKernel& kernel, const PreparedRows& x, const char* weight,
                    int64_t row_bytes, int64_t columns, const char* next_weight, float* sums) {
  const int64_t element = static_cast<int64_t>(size_of(kernel.dtype));
  for (int64_t i = 0; i < x.n(); i += x.chunk()) {
    const char* block = weight + i * element;
    const char* next = i + x.chunk() < x.n()    ? block + x.chunk() * element
                       : next_weight != nullptr ? next_weight
                                                : block;
    kernel.multiply({.x = x.chunk_at(i / x.chunk()),
                     .x_stride = x.row_stride(),
                     .rows = x.rows(),
                     .weight = block,
                     .weight_stride = row_bytes,
                     .columns = columns,
                     .count = std::min(x.chunk(), x.n() - i),
                     .next_weight = next,
                     .sums = sums,
                     .sums_stride = kMaxBlockColumns,
                     .add = i > 0});
  }
}

}  // namespace internal
}  // namespace lorax::cpu
