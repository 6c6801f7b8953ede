// The inner loops of matmul.h, one per instruction set, and what they share.
#pragma once

#include <cstdint>
#include <vector>

#include "base/dtype.h"

namespace lorax::cpu {

// sums[r][c] = x[r] . weight[c], or += with `add`, over `count` elements.
struct MatmulBlock {
  const void* x;          // [rows, count] prepared rows, zeros up to the next multiple of kGroup
  int64_t x_stride;       // bytes
  int64_t rows;           // at least 1
  const void* weight;     // [columns, count] model dtype
  int64_t weight_stride;  // bytes
  int64_t columns;        // rows of the weight matrix: columns of the product
  int64_t count;
  const void* next_weight;  // of the block after this one, to be prefetched; weight itself: nothing
  float* sums;
  int64_t sums_stride;  // elements
  bool add;
};

// The whole product of few rows: the same sums as those of a MatmulBlock per chunk, in one call
// that reads the weights from the first byte to the last, as the memory's own prefetch likes it.
struct MatmulStream {
  const void* x;         // prepared rows: [chunks, rows, chunk]
  int64_t x_stride;      // bytes from row to row
  int64_t chunk_stride;  // bytes from chunk to chunk
  int64_t rows;          // 1 to MatmulKernel::kStreamRows
  const void* weight;    // [columns, count] model dtype
  int64_t weight_stride;
  int64_t columns;
  int64_t count;
  int64_t chunk;  // elements
  float* sums;
  int64_t sums_stride;  // elements
};

// Each chunk of a sum has one vector of accumulators, filled in ascending order and added up by one
// fixed tree, and chunks are added in ascending order, however many rows and columns are computed
// beside it: that is what makes a row's bits independent of its batch.
struct MatmulKernel {
  const char* instruction_set;
  DType dtype;      // of x and weight
  int64_t element;  // bytes of an element of a prepared row
  // Writes x [count] in the form that multiply() reads, zeros up to the next multiple of kGroup.
  void (*prepare)(const void* x, int64_t count, void* prepared);
  void (*multiply)(const MatmulBlock& block);
  void (*stream)(const MatmulStream& product);

  // Blocks begin at multiples of this many elements.
  static constexpr int64_t kGroup = 64;
  // Every kernel's tiles divide blocks of a multiple of this many columns.
  static constexpr int64_t kColumns = 24;
  // Rows that stream() takes at most: beyond it, multiplying takes longer than reading.
  static constexpr int64_t kStreamRows = 4;
};

// The fastest on this processor.
const MatmulKernel& matmul_kernel(DType dtype);
// All that this processor can run and nobody ruled out, for tests and benchmarks. Not while another
// thread computes.
std::vector<const MatmulKernel*> all_matmul_kernels();

// In float32 on any processor (Highway), 16-bit types widened in registers: the widest vectors of
// this processor, and those of all its instruction sets.
const MatmulKernel& highway_matmul_kernel(DType dtype);
std::vector<const MatmulKernel*> all_highway_matmul_kernels();
// float32 to a model dtype, rounded to nearest even.
void store_rounded(const float* from, int64_t count, DType dtype, void* to);

#if defined(__x86_64__)
// By vdpbf16ps, which multiplies and adds pairs of bfloat16: it takes subnormal inputs as zero,
// flushes subnormal sums to zero and rounds to nearest even whatever the rounding mode. Only where
// uses_avx512_bf16() (kernel_level.h).
extern const MatmulKernel kAvx512Bf16MatmulKernel;
#endif

}  // namespace lorax::cpu
