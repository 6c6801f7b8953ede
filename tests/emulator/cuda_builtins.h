// CUDA's words for the host's compiler, as the emulator understands them. Included before a kernel.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "emulator.h"

// Objects, as a launch's configuration has a member of that name.
inline const struct {
  struct {
    operator unsigned() const { return lorax::emulator::Block::current().thread(); }
  } x;
} threadIdx{};
inline const struct {
  struct {
    operator unsigned() const { return lorax::emulator::Block::current().index(); }
  } x;
} blockIdx{};
inline const struct {
  struct {
    operator unsigned() const { return lorax::emulator::Block::current().grid(); }
  } x;
} gridDim{};

#undef __shared__
#define __shared__ thread_local
#undef __align__
#define __align__(bytes)
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__
#undef __global__
#define __global__
#undef __device__
#define __device__
#undef __forceinline__
#define __forceinline__ inline
#define __CUDA_ARCH_FEAT_SM90_ALL 1

// ---- of all threads of a warp or block ----------------------------------------------------------

inline void __syncthreads() {
  lorax::emulator::Block& block = lorax::emulator::Block::current();
  block.synchronize(0, block.threads());
}

inline void __syncwarp() {
  char all[32];
  lorax::emulator::Block::current().exchange(char{0}, all);
}

template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  T all[32];
  lorax::emulator::Block::current().exchange(value, all);
  return all[lane % 32];
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int across) {
  return __shfl_sync(mask, value, static_cast<int>(threadIdx.x % 32) ^ across);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, int distance) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  return __shfl_sync(mask, value, lane >= distance ? lane - distance : lane);
}

inline unsigned __ballot_sync(unsigned, bool vote) {
  bool all[32];
  lorax::emulator::Block::current().exchange(vote, all);
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane) votes |= static_cast<unsigned>(all[lane]) << lane;
  return votes;
}

// ---- memory -------------------------------------------------------------------------------------

template <typename T>
T __ldg(const T* from) {
  return *from;
}
template <typename T>
T __ldcg(const T* from) {
  return *from;
}
template <typename T>
void __stcg(T* to, T value) {
  *to = value;
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline unsigned atomicAdd(unsigned* to, unsigned value) {
  return __atomic_fetch_add(to, value, __ATOMIC_SEQ_CST);
}

// ---- of the host
// ----------------------------------------------------------------------------------

template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*)(Parameters...), cudaFuncAttribute, int) {
  return cudaSuccess;
}

// ---- arithmetic ---------------------------------------------------------------------------------

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline int __ffs(unsigned value) { return __builtin_ffs(static_cast<int>(value)); }
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t bytes = uint64_t{high} << 32 | low;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  }
  return result;
}
template <typename T>
T min(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
T max(T a, T b) {
  return a > b ? a : b;
}
