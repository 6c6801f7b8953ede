// The stream that kernels are launched on.
#pragma once

#include <cuda_runtime.h>

namespace lorax::cuda {

struct Stream {
  cudaStream_t handle = nullptr;
  // Whether a kernel may start while the one before it still runs (compute capability 9.0).
  bool overlaps = false;
  bool hopper = false;  // whether it runs Hopper's own instructions (compute capability 9.0 alone)
  int multiprocessors = 1;

  operator cudaStream_t() const { return handle; }
};

}  // namespace lorax::cuda
