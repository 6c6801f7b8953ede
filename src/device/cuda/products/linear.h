// Products on the GPU: which kernel takes which shape, and cuBLASLt with its algorithms remembered.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <unordered_map>

#include "device/cuda/ops/kernels.h"

namespace lorax::cuda {

// Not copyable; one call at a time, on the device that was current when it was made.
class Linear {
 public:
  // Kernels use `workspace` (aligned to 256 bytes) and `flags`, kGemmFlags zeros, until they end.
  Linear(void* workspace, size_t workspace_bytes, uint32_t* flags);
  ~Linear();
  Linear(const Linear&) = delete;
  Linear& operator=(const Linear&) = delete;

  // The contract of Device::linear. The first call of a shape looks for an algorithm on the host
  // (some ten microseconds) and remembers it.
  void operator()(Stream stream, const LinearArgs& args);

  // The same, then gelu_tanh_mul of the rounded product, in one kernel: weight [m, n] is gate | up,
  // out [rows, m / 2]. False, and nothing is done, where no kernel does both.
  bool gelu_tanh_mul(Stream stream, const LinearArgs& args) const;

  // Whether all rows and pointers are aligned to 16 bytes.
  static bool is_aligned(const LinearArgs& args);
  // Whether skinny_linear takes the product.
  static bool is_skinny(const LinearArgs& args);

 private:
  struct Shape {
    int64_t rows, m, n, x_stride, out_stride;
    DType dtype, out_dtype;

    bool operator==(const Shape&) const = default;
  };
  struct ShapeHash {
    size_t operator()(const Shape& shape) const;
  };
  // All that a call needs; no memory of its own.
  struct Plan {
    cublasLtMatmulDescOpaque_t operation;
    cublasLtMatrixLayoutOpaque_t weight, x, out;
    cublasLtMatmulAlgo_t algorithm;
    bool usable;  // cuBLASLt has an algorithm for the shape
  };

  Plan make_plan(const Shape& shape) const;

  void* workspace_;
  size_t workspace_bytes_;
  uint32_t* flags_;
  cublasLtHandle_t handle_ = nullptr;
  std::unordered_map<Shape, Plan, ShapeHash> plans_;
};

}  // namespace lorax::cuda
