// Products of prepared rows of x with rows of a weight matrix, by any kernel of matmul_kernel.h:
// how long sums are cut, and in which order weights and rows pass by. A sum is cut and added up in
// one way that depends on its length alone.
#pragma once

#include <algorithm>
#include <cstdint>

#include "device/cpu/matmul_kernel.h"

namespace lorax::cpu {

constexpr int64_t divide_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }
constexpr int64_t round_up(int64_t value, int64_t unit) { return divide_up(value, unit) * unit; }

// The size of the fewest equal parts of at most `most` each, as a multiple of `unit`.
constexpr int64_t even_part(int64_t whole, int64_t most, int64_t unit) {
  return round_up(divide_up(whole, std::max<int64_t>(1, divide_up(whole, most))), unit);
}

// Rows that are prepared at a time; beyond that the weights are read again.
inline constexpr int64_t kPreparedRows = 512;
// Rows of x of one call of multiply_columns(): with more, jobs share the weights through the last
// cache.
inline constexpr int64_t kJobRows = 256;
// Columns that multiply_columns() yields at a time: their weights stay in the second-level cache
// while rows of x pass by.
inline constexpr int64_t kMaxBlockColumns = 2 * MatmulKernel::kColumns;
// What multiply_columns() needs for its sums.
inline constexpr int64_t kSumsFloats = kJobRows * kMaxBlockColumns;

// Rows as a kernel reads them: the first chunk of all rows, then the second, ...
class PreparedRows {
 public:
  PreparedRows() = default;
  // `data` has room for bytes_for(kernel, rows, n).
  PreparedRows(const MatmulKernel& kernel, char* data, int64_t rows, int64_t n)
      : data_(data), rows_(rows), count_(rows), n_(n), chunk_(chunk_of(n)) {
    row_bytes_ = chunk_ * kernel.element;
  }
  static size_t bytes_for(const MatmulKernel& kernel, int64_t rows, int64_t n) {
    return static_cast<size_t>(rows * divide_up(n, chunk_of(n)) * chunk_of(n) * kernel.element);
  }

  // Prepares row `row` from n dense elements.
  void fill(const MatmulKernel& kernel, int64_t row, const char* from) const;

  // Rows [begin, end).
  PreparedRows slice(int64_t begin, int64_t end) const {
    PreparedRows part = *this;
    part.data_ += begin * row_bytes_;
    part.count_ = end - begin;
    return part;
  }

  int64_t rows() const { return count_; }
  int64_t n() const { return n_; }
  int64_t chunk() const { return chunk_; }  // elements
  int64_t row_stride() const { return row_bytes_; }
  int64_t chunk_stride() const { return rows_ * row_bytes_; }
  int64_t bytes() const { return count_ * divide_up(n_, chunk_) * row_bytes_; }
  const char* chunk_at(int64_t index) const { return data_ + index * chunk_stride(); }

 private:
  // Longest part of a sum that one vector of accumulators takes: a tile's rows of x are that long,
  // and must stay in a first-level cache of 32 KiB with the weights that pass by.
  static constexpr int64_t kMaxChunk = 1024;
  static int64_t chunk_of(int64_t n) { return even_part(n, kMaxChunk, MatmulKernel::kGroup); }

  char* data_ = nullptr;
  int64_t rows_ = 0;   // prepared together
  int64_t count_ = 0;  // of this slice
  int64_t n_ = 0;
  int64_t chunk_ = 0;
  int64_t row_bytes_ = 0;
};

// Computes sums[r][c] = x[r] . weight[c] for up to kMaxBlockColumns columns c at a time, and calls
// consume(first column, columns) when sums [x.rows(), kMaxBlockColumns] holds theirs. weight
// [columns, n] rows are dense. x has at most kJobRows rows.
template <typename Consume>
void multiply_columns(const MatmulKernel& kernel, const PreparedRows& x, const char* weight,
                      int64_t row_bytes, int64_t columns, float* sums, const Consume& consume);

// The pieces of it.
namespace internal {

// Whether few rows had better be streamed over.
bool is_streamed(const PreparedRows& x);
// All sums of `columns` columns. multiply_block() prefetches `next_weight`, which comes after them;
// null: nothing does.
void stream_block(const MatmulKernel& kernel, const PreparedRows& x, const char* weight,
                  int64_t row_bytes, int64_t columns, float* sums);
void multiply_block(const MatmulKernel& kernel, const PreparedRows& x, const char* weight,
                    int64_t row_bytes, int64_t columns, const char* next_weight, float* sums);
int64_t block_columns(const PreparedRows& x);

}  // namespace internal

template <typename Consume>
void multiply_columns(const MatmulKernel& kernel, const PreparedRows& x, const char* weight,
                      int64_t row_bytes, int64_t columns, float* sums, const Consume& consume) {
  const bool streamed = internal::is_streamed(x);
  const int64_t width = internal::block_columns(x);
  for (int64_t column = 0; column < columns; column += width) {
    const int64_t count = std::min(width, columns - column);
    const char* block = weight + column * row_bytes;
    if (streamed) {
      internal::stream_block(kernel, x, block, row_bytes, count, sums);
    } else {
      const char* next = column + width < columns ? block + width * row_bytes : nullptr;
      internal::multiply_block(kernel, x, block, row_bytes, count, next, sums);
    }
    consume(column, count);
  }
}

}  // namespace lorax::cpu
