#include "device/cpu/matmul.h"

#include <algorithm>
#include <vector>

#include "device/cpu/matmul_kernel.h"
#include "device/cpu/memory.h"

namespace lorax::cpu {
namespace {

// Rows of x that are prepared at a time; beyond that the weights are read again.
constexpr int64_t kPreparedRows = 512;
// Rows of x of one job: with more, jobs share the weights through the last cache.
constexpr int64_t kJobRows = 256;
// Longest part of a sum that one vector of accumulators takes: a tile's rows of x are that long,
// and must stay in a first-level cache of 32 KiB with the weights that pass by.
constexpr int64_t kMaxChunk = 1024;
// Columns of a block, whose weights stay in the second-level cache while rows of x pass by: many,
// so that each row of x is loaded from far away seldom, unless there are few rows.
constexpr int64_t kMaxBlockColumns = 2 * MatmulKernel::kColumns;
constexpr int64_t kFewRows = 64;
// Columns of a job: enough to stream, few enough to share evenly.
constexpr int64_t kMaxJobColumns = 4 * MatmulKernel::kColumns;
constexpr int64_t kJobsPerThread = 4;

// Rows of x that pass by again for each column when few are multiplied: they stay in the first
// cache.
constexpr int64_t kStreamBytes = 24 << 10;

constexpr int64_t divide_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }
constexpr int64_t round_up(int64_t value, int64_t unit) { return divide_up(value, unit) * unit; }

// The size of the fewest equal parts of at most `most` each, as a multiple of `unit`.
constexpr int64_t even_part(int64_t whole, int64_t most, int64_t unit) {
  return round_up(divide_up(whole, std::max<int64_t>(1, divide_up(whole, most))), unit);
}

#if defined(__x86_64__)
// The bits that CPUID gives, where the system saves the registers.
bool has_avx512_bf16() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bf16");
}
#endif

// Memory that grows and is never initialised.
class Scratch {
 public:
  ~Scratch() { release(); }

  char* ensure(size_t bytes) {
    if (bytes > bytes_) {
      release();
      data_ = static_cast<char*>(allocate(bytes));
      bytes_ = bytes;
    }
    return data_;
  }

 private:
  void release() {
    if (data_ != nullptr) deallocate(data_, bytes_);
    data_ = nullptr;
    bytes_ = 0;
  }

  char* data_ = nullptr;
  size_t bytes_ = 0;
};

void store_row(const float* sums, int64_t count, const Tensor& out, int64_t row, int64_t column) {
  const int64_t at = row * out.stride(0) + column;
  if (out.dtype == DType::kFloat32) {
    std::copy(sums, sums + count, out.as<float>() + at);
  } else {
    round_to_bfloat16(sums, count, out.as<BFloat16>() + at);
  }
}

// Some rows of x as a kernel reads them: the first chunk of all rows, then the second, ...
struct PreparedRows {
  const char* data;
  int64_t rows;
  int64_t chunks;
  int64_t chunk;    // elements: depends on n alone, so that a sum is cut in the same places always
  int64_t element;  // bytes

  int64_t row_bytes() const { return chunk * element; }
  int64_t bytes() const { return rows * chunks * row_bytes(); }
  const char* at(int64_t chunk_index, int64_t row) const {
    return data + (chunk_index * rows + row) * row_bytes();
  }
};

}  // namespace

const MatmulKernel& matmul_kernel(DType dtype) {
#if defined(__x86_64__)
  if (dtype == DType::kBFloat16 && has_avx512_bf16()) return kAvx512Bf16MatmulKernel;
#endif
  return highway_matmul_kernel(dtype);
}

std::vector<const MatmulKernel*> all_matmul_kernels() {
  std::vector<const MatmulKernel*> kernels = all_highway_matmul_kernels();
#if defined(__x86_64__)
  if (has_avx512_bf16()) kernels.push_back(&kAvx512Bf16MatmulKernel);
#endif
  return kernels;
}

struct Matmul::Impl {
  Impl(ThreadPool& pool, const MatmulKernel* forced)
      : pool(pool), forced(forced), sums(static_cast<size_t>(pool.size())) {
    for (std::vector<float>& part : sums) part.resize(kJobRows * kMaxBlockColumns);
  }

  const MatmulKernel& kernel_of(DType dtype) const {
    return forced != nullptr ? *forced : matmul_kernel(dtype);
  }
  PreparedRows prepare(const MatmulKernel& kernel, const Tensor& x);
  void multiply(const MatmulKernel& kernel, const Tensor& x, const Tensor& weight,
                const Tensor& out);

  ThreadPool& pool;
  const MatmulKernel* forced;
  Scratch prepared;
  std::vector<std::vector<float>> sums;  // one per thread, [kJobRows, kMaxBlockColumns]
};

namespace {

// One job of few rows: all rows of x, columns [begin, end) of out.
void stream_columns(const MatmulKernel& kernel, const PreparedRows& x, const Tensor& weight,
                    const Tensor& out, int64_t begin, int64_t end, float* sums) {
  const int64_t row_bytes = weight.dim(1) * static_cast<int64_t>(size_of(weight.dtype));
  for (int64_t column = begin; column < end; column += kMaxBlockColumns) {
    const int64_t columns = std::min(kMaxBlockColumns, end - column);
    kernel.stream({.x = x.data,
                   .x_stride = x.row_bytes(),
                   .chunk_stride = x.rows * x.row_bytes(),
                   .rows = x.rows,
                   .weight = static_cast<const char*>(weight.data) + column * row_bytes,
                   .weight_stride = row_bytes,
                   .columns = columns,
                   .count = weight.dim(1),
                   .chunk = x.chunk,
                   .sums = sums,
                   .sums_stride = kMaxBlockColumns});
    for (int64_t row = 0; row < x.rows; ++row) {
      store_row(sums + row * kMaxBlockColumns, columns, out, row, column);
    }
  }
}

// One job: rows [first_row, first_row + out.dim(0)) of x, columns [begin, end) of out.
void multiply_columns(const MatmulKernel& kernel, const PreparedRows& x, int64_t first_row,
                      const Tensor& weight, const Tensor& out, int64_t begin, int64_t end,
                      float* sums) {
  const int64_t rows = out.dim(0);
  const int64_t n = weight.dim(1);
  const int64_t element = static_cast<int64_t>(size_of(weight.dtype));
  const int64_t width = rows <= kFewRows ? MatmulKernel::kColumns : kMaxBlockColumns;
  const auto weights_at = [&](int64_t column, int64_t i) {
    return static_cast<const char*>(weight.data) + (column * n + i) * element;
  };
  for (int64_t column = begin; column < end; column += width) {
    const int64_t columns = std::min(width, end - column);
    for (int64_t i = 0; i < n; i += x.chunk) {
      const char* block = weights_at(column, i);
      const char* next = i + x.chunk < n        ? weights_at(column, i + x.chunk)
                         : column + width < end ? weights_at(column + width, 0)
                                                : block;
      kernel.multiply({.x = x.at(i / x.chunk, first_row),
                       .x_stride = x.row_bytes(),
                       .rows = rows,
                       .weight = block,
                       .weight_stride = n * element,
                       .columns = columns,
                       .count = std::min(x.chunk, n - i),
                       .next_weight = next,
                       .sums = sums,
                       .sums_stride = kMaxBlockColumns,
                       .add = i > 0});
    }
    for (int64_t row = 0; row < rows; ++row) {
      store_row(sums + row * kMaxBlockColumns, columns, out, row, column);
    }
  }
}

}  // namespace

PreparedRows Matmul::Impl::prepare(const MatmulKernel& kernel, const Tensor& x) {
  const int64_t n = x.dim(1);
  const int64_t chunk = even_part(n, kMaxChunk, MatmulKernel::kGroup);
  const int64_t chunks = divide_up(n, chunk);
  char* data = prepared.ensure(static_cast<size_t>(x.dim(0) * chunks * chunk * kernel.element));
  const PreparedRows rows = {data, x.dim(0), chunks, chunk, kernel.element};
  const int64_t element = static_cast<int64_t>(size_of(x.dtype));
  const auto prepare_row = [&](int64_t row, int) {
    const char* from = static_cast<const char*>(x.data) + row * x.stride(0) * element;
    for (int64_t index = 0; index < chunks; ++index) {
      kernel.prepare(from + index * chunk * element, std::min(chunk, n - index * chunk),
                     data + (rows.at(index, row) - data));
    }
  };
  if (x.dim(0) < 4) {  // not worth waking anybody
    for (int64_t row = 0; row < x.dim(0); ++row) prepare_row(row, 0);
  } else {
    pool.parallel_for(x.dim(0), prepare_row);
  }
  return rows;
}

void Matmul::Impl::multiply(const MatmulKernel& kernel, const Tensor& x, const Tensor& weight,
                            const Tensor& out) {
  const PreparedRows rows = prepare(kernel, x);
  const int64_t job_rows = even_part(rows.rows, kJobRows, 1);
  const int64_t row_jobs = divide_up(rows.rows, job_rows);
  const int64_t m = weight.dim(0);
  const int64_t share = divide_up(m, kJobsPerThread * pool.size());
  const int64_t job_columns = std::min(round_up(share, MatmulKernel::kColumns), kMaxJobColumns);
  if (rows.rows <= MatmulKernel::kStreamRows && rows.bytes() <= kStreamBytes) {
    pool.parallel_for(divide_up(m, job_columns), [&](int64_t index, int worker) {
      stream_columns(kernel, rows, weight, out, index * job_columns,
                     std::min(m, (index + 1) * job_columns),
                     sums[static_cast<size_t>(worker)].data());
    });
    return;
  }
  // Jobs of the same columns follow each other, so that they find the weights in the last cache.
  pool.parallel_for(row_jobs * divide_up(m, job_columns), [&](int64_t index, int worker) {
    const int64_t row = index % row_jobs * job_rows;
    const int64_t column = index / row_jobs * job_columns;
    multiply_columns(kernel, rows, row, weight,
                     out.slice(0, row, std::min(rows.rows, row + job_rows)), column,
                     std::min(m, column + job_columns), sums[static_cast<size_t>(worker)].data());
  });
}

Matmul::Matmul(ThreadPool& pool, const MatmulKernel* kernel)
    : impl_(std::make_unique<Impl>(pool, kernel)) {}

Matmul::~Matmul() = default;

const char* Matmul::instruction_set() const {
  return impl_->kernel_of(DType::kBFloat16).instruction_set;
}

void Matmul::operator()(const Tensor& x, const Tensor& weight, const Tensor& out) {
  const MatmulKernel& kernel = impl_->kernel_of(x.dtype);
  LORAX_CHECK(kernel.dtype == x.dtype && x.dtype == weight.dtype);
  const int64_t part = even_part(x.dim(0), kPreparedRows, 1);
  for (int64_t row = 0; row < x.dim(0); row += part) {
    const int64_t end = std::min(x.dim(0), row + part);
    impl_->multiply(kernel, x.slice(0, row, end), weight, out.slice(0, row, end));
  }
}

}  // namespace lorax::cpu
