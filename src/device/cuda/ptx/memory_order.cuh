// Words by which the blocks of a grid tell each other what they have done.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace lorax::cuda {

// What this thread knows to be written before is written before the word, for whoever reads the
// word with load_acquired().
__device__ inline void add_released(uint32_t* to, uint32_t value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}

__device__ inline void store_released(uint32_t* to, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}

__device__ inline uint32_t load_acquired(const uint32_t* from) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}

}  // namespace lorax::cuda
