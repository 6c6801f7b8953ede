// Every call of CUDA and cuBLASLt goes through check(): what fails becomes an Error that names the
// call. After an error of a kernel (such as an illegal address) the process cannot use the GPU any
// more, so the device's owner must give up.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include "base/error.h"

namespace lorax::cuda {

inline void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) {
    fail("CUDA: {}: {} ({})", call, cudaGetErrorString(status), cudaGetErrorName(status));
  }
}

inline void check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    fail("cuBLASLt: {}: {}", call, cublasLtGetStatusName(status));
  }
}

// After a launch: whether it was accepted. What goes wrong while the kernel runs is reported by a
// later call.
inline void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

}  // namespace lorax::cuda
