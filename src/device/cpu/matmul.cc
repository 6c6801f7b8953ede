#include "device/cpu/matmul.h"

#include <algorithm>
#include <vector>

#include "device/cpu/matmul_kernel.h"
#include "device/cpu/memory.h"

namespace lorax::cpu {
namespace {

// Rows of x that are prepared at a time; beyond that the weights are read again.
constexpr int64_t kRowBlock = 256;
// Rows of x that are swept over a block of weights together: with kMaxChunk elements each they stay
// in a second-level cache of 512 KiB.
constexpr int64_t kRowSweep = 24;
// Longest part of a sum that one vector of accumulators takes.
constexpr int64_t kMaxChunk = 2304;
// Columns of one piece of work: enough to stream, few enough to share evenly. Multiples of every
// kernel's tile width.
constexpr int64_t kMinColumns = 24;
constexpr int64_t kMaxColumns = 96;

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Depends on n alone, so that a sum is cut in the same places for every batch.
int64_t chunk_size(int64_t n) {
  const int64_t chunks = (n + kMaxChunk - 1) / kMaxChunk;
  return round_up((n + chunks - 1) / chunks, MatmulKernel::kGroup);
}

const MatmulKernel& choose_kernel(DType dtype) {
  if (dtype == DType::kFloat32) return float32_matmul_kernel();
#if defined(__x86_64__)
  if (avx512_bf16_matmul_kernel().is_supported()) return avx512_bf16_matmul_kernel();
#endif
  return widening_bfloat16_matmul_kernel();
}

void store_row(const float* sums, int64_t count, const Tensor& out, int64_t row, int64_t column) {
  const int64_t at = row * out.stride(0) + column;
  if (out.dtype == DType::kFloat32) {
    std::copy(sums, sums + count, out.as<float>() + at);
  } else {
    BFloat16* to = out.as<BFloat16>() + at;
    for (int64_t i = 0; i < count; ++i) to[i] = BFloat16(sums[i]);
  }
}

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

}  // namespace

struct Matmul::Impl {
  Impl(ThreadPool& pool, const MatmulKernel* forced)
      : pool(pool), forced(forced), sums(static_cast<size_t>(pool.size())) {
    for (std::vector<float>& part : sums) part.resize(kRowBlock * kMaxColumns);
  }

  void multiply_rows(const MatmulKernel& kernel, const Tensor& x, const Tensor& weight,
                     const Tensor& out);
  void multiply_columns(const MatmulKernel& kernel, const char* rows, int64_t row_stride,
                        const Tensor& weight, const Tensor& out, int64_t begin, int64_t end,
                        float* sums) const;

  ThreadPool& pool;
  const MatmulKernel* forced;
  Scratch prepared;
  std::vector<std::vector<float>> sums;  // one per thread, [kRowBlock, kMaxColumns]
};

Matmul::Matmul(ThreadPool& pool, const MatmulKernel* kernel)
    : impl_(std::make_unique<Impl>(pool, kernel)) {}

Matmul::~Matmul() = default;

std::string_view Matmul::instruction_set() const {
  return (impl_->forced != nullptr ? *impl_->forced : choose_kernel(DType::kBFloat16))
      .instruction_set;
}

void Matmul::operator()(const Tensor& x, const Tensor& weight, const Tensor& out) {
  const MatmulKernel& kernel = impl_->forced != nullptr ? *impl_->forced : choose_kernel(x.dtype);
  LORAX_CHECK(kernel.dtype == x.dtype && x.dtype == weight.dtype);
  for (int64_t row = 0; row < x.dim(0); row += kRowBlock) {
    const int64_t end = std::min(x.dim(0), row + kRowBlock);
    impl_->multiply_rows(kernel, x.slice(0, row, end), weight, out.slice(0, row, end));
  }
}

void Matmul::Impl::multiply_rows(const MatmulKernel& kernel, const Tensor& x, const Tensor& weight,
                                 const Tensor& out) {
  const int64_t n = x.dim(1);
  const int64_t row_stride = round_up(n, MatmulKernel::kGroup) * kernel.element;
  char* rows = prepared.ensure(static_cast<size_t>(x.dim(0) * row_stride));
  const char* source = static_cast<const char*>(x.data);
  const int64_t source_stride = x.stride(0) * static_cast<int64_t>(size_of(x.dtype));
  const auto prepare = [&](int64_t row, int) {
    kernel.prepare(source + row * source_stride, n, rows + row * row_stride);
  };
  if (x.dim(0) < 4) {  // not worth waking anybody
    for (int64_t row = 0; row < x.dim(0); ++row) prepare(row, 0);
  } else {
    pool.parallel_for(x.dim(0), prepare);
  }
  const int64_t columns = weight.dim(0);
  const int64_t share = round_up((columns + 4 * pool.size() - 1) / (4 * pool.size()), kMinColumns);
  const int64_t piece = std::min(share, kMaxColumns);
  pool.parallel_for((columns + piece - 1) / piece, [&](int64_t index, int worker) {
    multiply_columns(kernel, rows, row_stride, weight, out, index * piece,
                     std::min(columns, (index + 1) * piece),
                     sums[static_cast<size_t>(worker)].data());
  });
}

void Matmul::Impl::multiply_columns(const MatmulKernel& kernel, const char* rows,
                                    int64_t row_stride, const Tensor& weight, const Tensor& out,
                                    int64_t begin, int64_t end, float* block_sums) const {
  const int64_t n = weight.dim(1);
  const int64_t element = static_cast<int64_t>(size_of(weight.dtype));
  const int64_t chunk = chunk_size(n);
  for (int64_t first = 0; first < n; first += chunk) {
    for (int64_t row = 0; row < out.dim(0); row += kRowSweep) {
      kernel.multiply({.x = rows + row * row_stride + first * kernel.element,
                       .x_stride = row_stride,
                       .rows = std::min(kRowSweep, out.dim(0) - row),
                       .weight = static_cast<const char*>(weight.data) +
                                 (begin * n + first) * element,
                       .weight_stride = n * element,
                       .columns = end - begin,
                       .count = std::min(chunk, n - first),
                       .sums = block_sums + row * kMaxColumns,
                       .sums_stride = kMaxColumns,
                       .add = first > 0});
    }
  }
  for (int64_t row = 0; row < out.dim(0); ++row) {
    store_row(block_sums + row * kMaxColumns, end - begin, out, row, begin);
  }
}

}  // namespace lorax::cpu
