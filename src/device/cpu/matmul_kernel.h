// The innermost product, one implementation per instruction set. Matmul (matmul.h) blocks and
// threads around it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/dtype.h"

namespace lorax::cpu {

// sums[r][c] = x_r . weight_c over `count` elements, or that added to what stands there.
struct MatmulBlock {
  const void* x;  // prepared rows (MatmulKernel::prepare), at the first element of this block
  int64_t x_stride;  // bytes
  int64_t rows;
  const void* weight;  // model dtype, at the first element of this block
  int64_t weight_stride;  // bytes
  int64_t columns;        // rows of the weight matrix: columns of the product
  int64_t count;
  float* sums;
  int64_t sums_stride;  // elements
  bool add;
};

// Each sum has one vector of accumulators, filled in ascending order and added up by one fixed tree,
// however many rows and columns are computed beside it: that is what makes a row's bits
// independent of its batch.
struct MatmulKernel {
  std::string_view instruction_set;
  DType dtype;          // of x and weight
  int64_t element;      // bytes of an element of a prepared row
  bool (*is_supported)();
  // Writes x [count] in the form that multiply() reads, zeros up to the next multiple of kGroup.
  void (*prepare)(const void* x, int64_t count, void* prepared);
  void (*multiply)(const MatmulBlock& block);

  // Blocks begin at multiples of this many elements.
  static constexpr int64_t kGroup = 64;
};

// By widening to float32, on every processor (Highway): the widest vectors this one has.
const MatmulKernel& float32_matmul_kernel();
const MatmulKernel& widening_bfloat16_matmul_kernel();
#if defined(__x86_64__)
// By vdpbf16ps: two products per lane, which treats subnormal inputs and sums as zero and rounds the
// pair's sum as the instruction does.
const MatmulKernel& avx512_bf16_matmul_kernel();
#endif

}  // namespace lorax::cpu
