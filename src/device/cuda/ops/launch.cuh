// Launches whose beginnings overlap (programmatic dependent launch of compute capability 9.0).
//
// The blocks of a kernel launched with launch() may start as soon as every block of the kernel
// before it has started. Such a kernel
//   - calls start_next() at once, so that the kernel after it may start in its turn;
//   - may then read what no kernel of the step writes (weights) and what was copied in before it
//     began (ids, lengths, tables), above all to have the first weights on their way;
//   - calls wait_for_previous() before it reads or writes anything else, in every block and on
//     every way through the kernel: the kernel before has then ended and all it wrote is there. As
//     that one waited too, so it is for all kernels before.
// A block that waits holds its place on the multiprocessor, but all blocks it waits for have theirs
// already. Kernels launched otherwise start after all before them have ended, as ever.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "device/cuda/runtime/stream.h"

namespace lorax::cuda {

// Neighbours along blockIdx.x form clusters of `cluster` blocks, if it is more than 1, which needs
// compute capability 9.0. Arguments are converted to the kernel's parameters. Reports nothing; ask
// cudaGetLastError().
template <typename... Parameters, typename... Arguments>
void launch_clusters(Stream stream, dim3 grid, unsigned cluster, unsigned threads,
                     size_t shared_bytes, void (*kernel)(Parameters...), Arguments&&... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (stream.overlaps) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = cluster;
    attributes[count].val.clusterDim.y = 1;
    attributes[count++].val.clusterDim.z = 1;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream.handle;
  config.attrs = attributes;
  config.numAttrs = count;
  cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

template <typename... Parameters, typename... Arguments>
void launch(Stream stream, dim3 grid, unsigned threads, size_t shared_bytes,
            void (*kernel)(Parameters...), Arguments&&... arguments) {
  launch_clusters(stream, grid, 1, threads, shared_bytes, kernel, arguments...);
}

__device__ inline void start_next() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Starts bringing [from, from + bytes) into the L2 cache; both are multiples of 16. One thread's
// call is for all of it.
__device__ inline void prefetch_to_l2(const void* from, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
#endif
}

}  // namespace lorax::cuda
