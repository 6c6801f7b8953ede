#include "device/cpu/matmul.h"

#include <algorithm>
#include <vector>

#include "device/cpu/kernel_level.h"
#include "device/cpu/matmul_kernel.h"
#include "device/cpu/matmul_rows.h"
#include "device/cpu/scratch.h"

namespace lorax::cpu {
namespace {

// Columns of a job: enough to stream, few enough to share evenly.
constexpr int64_t kMaxJobColumns = 4 * MatmulKernel::kColumns;
constexpr int64_t kJobsPerThread = 4;

void store_row(const float* sums, int64_t count, const Tensor& out, int64_t row, int64_t column) {
  const int64_t at = row * out.stride(0) + column;
  if (out.dtype == DType::kFloat32) {
    std::copy(sums, sums + count, out.as<float>() + at);
  } else {
    store_rounded(sums, count, out.dtype, static_cast<uint16_t*>(out.data) + at);
  }
}

}  // namespace

const MatmulKernel& matmul_kernel(DType dtype) {
#if defined(__x86_64__)
  if (dtype == DType::kBFloat16 && uses_avx512_bf16()) return kAvx512Bf16MatmulKernel;
#endif
  return highway_matmul_kernel(dtype);
}

std::vector<const MatmulKernel*> all_matmul_kernels() {
  std::vector<const MatmulKernel*> kernels = all_highway_matmul_kernels();
#if defined(__x86_64__)
  if (uses_avx512_bf16()) kernels.push_back(&kAvx512Bf16MatmulKernel);
#endif
  return kernels;
}

struct Matmul::Impl {
  Impl(ThreadPool& pool, const MatmulKernel* forced)
      : pool(pool), forced(forced), sums(static_cast<size_t>(pool.size())) {
    for (std::vector<float>& part : sums) part.resize(kSumsFloats);
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
  std::vector<std::vector<float>> sums;  // one per thread
};

PreparedRows Matmul::Impl::prepare(const MatmulKernel& kernel, const Tensor& x) {
  const int64_t rows = x.dim(0);
  const PreparedRows prepared_rows(
      kernel, prepared.ensure(PreparedRows::bytes_for(kernel, rows, x.dim(1))), rows, x.dim(1));
  const int64_t row_bytes = x.stride(0) * static_cast<int64_t>(size_of(x.dtype));
  const auto prepare_row = [&](int64_t row, int) {
    prepared_rows.fill(kernel, row, static_cast<const char*>(x.data) + row * row_bytes);
  };
  if (rows < 4) {  // not worth waking anybody
    for (int64_t row = 0; row < rows; ++row) prepare_row(row, 0);
  } else {
    pool.parallel_for(rows, prepare_row);
  }
  return prepared_rows;
}

void Matmul::Impl::multiply(const MatmulKernel& kernel, const Tensor& x, const Tensor& weight,
                            const Tensor& out) {
  const PreparedRows rows = prepare(kernel, x);
  const int64_t job_rows = even_part(rows.rows(), kJobRows, 1);
  const int64_t row_jobs = divide_up(rows.rows(), job_rows);
  const int64_t m = weight.dim(0);
  const int64_t share = divide_up(m, kJobsPerThread * pool.size());
  const int64_t job_columns = std::min(round_up(share, MatmulKernel::kColumns), kMaxJobColumns);
  const int64_t weight_bytes = weight.dim(1) * static_cast<int64_t>(size_of(weight.dtype));
  // Jobs of the same columns follow each other, so that they find the weights in the last cache.
  pool.parallel_for(row_jobs * divide_up(m, job_columns), [&](int64_t index, int worker) {
    const int64_t row = index % row_jobs * job_rows;
    const int64_t row_end = std::min(rows.rows(), row + job_rows);
    const int64_t begin = index / row_jobs * job_columns;
    float* job_sums = sums[static_cast<size_t>(worker)].data();
    multiply_columns(
        kernel, rows.slice(row, row_end),
        static_cast<const char*>(weight.data) + begin * weight_bytes, weight_bytes,
        std::min(m - begin, job_columns), job_sums, [&](int64_t column, int64_t columns) {
          for (int64_t r = row; r < row_end; ++r) {
            store_row(job_sums + (r - row) * kMaxBlockColumns, columns, out, r, begin + column);
          }
        });
  });
}

Matmul::Matmul(ThreadPool& pool, const MatmulKernel* kernel)
    : impl_(std::make_unique<Impl>(pool, kernel)) {}

Matmul::~Matmul() = default;

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
