// What the instructions of a program share: its threads, and how blocks wait for each other.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "device/cuda/megakernel/program.h"
#include "device/cuda/ptx/hopper.cuh"
#include "device/cuda/ptx/memory_order.cuh"
#include "device/cuda/ptx/mma.cuh"
#include "device/cuda/ptx/vector.cuh"

namespace lorax::cuda {

constexpr int kProgramWarps = 8;
constexpr int kProgramThreads = kProgramWarps * 32;
constexpr int kProgramRowTiles = static_cast<int>(kProgramRows) / 8;

// Elements between rows of x of a product in shared memory.
__device__ inline int x_stride(const ProgramProduct& product) {
  return (product.parts == 1 ? product.n : product.part_steps * kProgramRound) + kProgramXPad;
}

// Among the threads that carry out instructions: all but the last warpgroup, see program.cu.
__device__ inline void sync_block() { sync_threads<kProgramThreads>(1); }

// Tells the other blocks how far this one has come, and learns when all have. It is a thread of its
// own, as whoever does that waits for all of the block's stores to arrive and for its own loads to
// come back.
struct Messenger {
  uint32_t done;  // barriers in shared memory: this block has come to the next wait;
  uint32_t go;    // all blocks have

  __device__ void init() const {
    init_barrier(done, 1);
    init_barrier(go, 1);
  }

  __device__ void run(ProgramSync* sync, int waits) const {
    for (int number = 1; number <= waits; ++number) {
      wait(done, static_cast<uint32_t>(number - 1) % 2);
      add_released(&sync->arrivals, 1);
      const uint32_t all = static_cast<uint32_t>(number) * gridDim.x;
      while (load_acquired(&sync->arrivals) < all) {
      }
      arrive(go);
    }
  }
};

// The end of what comes before an instruction. Made when the block has done that, and called once
// by every thread where the instruction first needs what others did: what all blocks have written
// before can be read after it, past the L1 cache (__ldcg). What an instruction loads in between is
// on its way while the blocks wait for each other.
class BlockWait {
 public:
  // `number`: see Instruction. The block's threads have met behind what they wrote.
  __device__ BlockWait(const Messenger& messenger, int number)
      : go_(messenger.go), number_(number) {
    if (number_ != 0 && threadIdx.x == 0) arrive(messenger.done);
  }

  __device__ void operator()() const {
    if (number_ != 0) wait(go_, static_cast<uint32_t>(number_ - 1) % 2);
  }

 private:
  uint32_t go_;
  int number_;
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

// Eight neighbouring elements.
__device__ inline void unpack_eight(const uint4& packed, float (&to)[8]) {
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack<bfloat16>(words[i]);
    to[2 * i] = pair.x;
    to[2 * i + 1] = pair.y;
  }
}

// Adds up eight numbers over the lanes of a warp: number 4 a + 2 b + c in the lanes whose numbers
// have the bits a, b, c first.
__device__ inline float sum_of_eight(float (&values)[8]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int count = 4; count > 0; count /= 2) {
    const bool is_upper = (lane & count * 4) != 0;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const float ours = is_upper ? values[i + count] : values[i];
      const float theirs = is_upper ? values[i] : values[i + count];
      values[i] = ours + __shfl_xor_sync(0xffffffffu, theirs, count * 4);
    }
  }
  const float sum = values[0] + __shfl_xor_sync(0xffffffffu, values[0], 2);
  return sum + __shfl_xor_sync(0xffffffffu, sum, 1);
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
