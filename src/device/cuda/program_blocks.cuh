// What the instructions of a program share: its threads, and how blocks wait for each other.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "device/cuda/hopper.cuh"
#include "device/cuda/memory_order.cuh"
#include "device/cuda/mma.cuh"
#include "device/cuda/program.h"
#include "device/cuda/vector.cuh"

namespace lorax::cuda {

constexpr int kProgramWarps = 8;
constexpr int kProgramThreads = kProgramWarps * 32;

// Among the threads that carry out instructions: all but those of the feeding warp.
__device__ inline void sync_block() { sync_threads<kProgramThreads>(1); }

// The end of what comes before an instruction. Called once by every thread, where the instruction
// first needs it: what all blocks have written before that can be read after it, past the L1 cache
// (__ldcg).
class BlockWait {
 public:
  // `passed`: how often the blocks have waited in this launch.
  __device__ BlockWait(ProgramSync* sync, bool waits, uint32_t& passed)
      : sync_(sync), waits_(waits), passed_(passed) {}

  // Inlined, as a call would spill what its caller has loaded ahead.
  __device__ __forceinline__ void operator()() const {
    if (!waits_) return;
    ++passed_;
    sync_block();
    if (threadIdx.x == 0) {
      add_released(&sync_->arrivals, 1);
      const uint32_t all = passed_ * gridDim.x;
      while (load_acquired(&sync_->arrivals) < all) {
      }
    }
    sync_block();
  }

 private:
  ProgramSync* sync_;
  bool waits_;
  uint32_t& passed_;
};

// Four elements past the L1 cache: other blocks may have written them.
__device__ inline void load_fresh(const float* from, float (&to)[4]) {
  const float4 value = __ldcg(reinterpret_cast<const float4*>(from));
  to[0] = value.x;
  to[1] = value.y;
  to[2] = value.z;
  to[3] = value.w;
}

__device__ inline void load_fresh(const bfloat16* from, float (&to)[4]) {
  const uint2 packed = __ldcg(reinterpret_cast<const uint2*>(from));
  const float2 low = unpack<bfloat16>(packed.x);
  const float2 high = unpack<bfloat16>(packed.y);
  to[0] = low.x;
  to[1] = low.y;
  to[2] = high.x;
  to[3] = high.y;
}

// The sum over all threads of the block, in each of them. `warp_sums` is this call's own.
__device__ inline float program_sum(float value, float (&warp_sums)[kProgramWarps]) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
  sync_block();
  float sum = 0.0f;
#pragma unroll
  for (int warp = 0; warp < kProgramWarps; ++warp) sum += warp_sums[warp];
  return sum;
}

}  // namespace lorax::cuda
