// device/cuda/ptx/mma.cuh, emulated. Sums are exact but for one rounding per instruction.
#pragma once

#include <type_traits>

#include "device/cuda/ptx/vector.cuh"
#include "emulator.h"

namespace lorax::cuda {

template <typename T>
uint32_t pack(float low, float high) {
  const T pair[2] = {from_float<T>(low), from_float<T>(high)};
  uint32_t packed;
  std::memcpy(&packed, pair, sizeof(packed));
  return packed;
}

template <typename T>
float2 unpack(uint32_t packed) {
  T pair[2];
  std::memcpy(pair, &packed, sizeof(packed));
  return make_float2(to_float(pair[0]), to_float(pair[1]));
}

template <typename T>
float element(uint32_t pair, int index) {
  const float2 values = unpack<T>(pair);
  return index == 0 ? values.x : values.y;
}

template <typename T>
void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Operands {
    uint32_t a[4];
    uint32_t b[2];
  };
  Operands all[32];
  emulator::Block::current().exchange(Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}}, all);
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8;
    const int column = lane % 4 * 2 + i % 2;
    double sum = c[i];
    for (int k = 0; k < 16; ++k) {
      const int t = k % 8 / 2;
      sum += double{element<T>(all[row % 8 * 4 + t].a[k / 8 * 2 + row / 8], k % 2)} *
             element<T>(all[column * 4 + t].b[k / 8], k % 2);
    }
    c[i] = static_cast<float>(sum);
  }
}

inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Operands {
    uint32_t a[4];
    uint32_t b[2];
  };
  Operands all[32];
  emulator::Block::current().exchange(Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}}, all);
  const auto value = [](uint32_t bits) { return double{__uint_as_float(bits & 0xffffe000u)}; };
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8;
    const int column = lane % 4 * 2 + i % 2;
    double sum = c[i];
    for (int k = 0; k < 8; ++k) {
      sum += value(all[row % 8 * 4 + k % 4].a[k / 4 * 2 + row / 8]) *
             value(all[column * 4 + k % 4].b[k / 4]);
    }
    c[i] = static_cast<float>(sum);
  }
}

inline uint32_t shared_address(const void* pointer) {
  return emulator::Block::current().address_of(pointer);
}

inline uint4 load_shared(uint32_t address) {
  uint4 value;
  std::memcpy(&value, emulator::Block::current().pointer_to(address), sizeof(value));
  return value;
}

// Lane l's row of matrix l / 8, and what each lane takes of it.
inline void load_matrices(uint32_t (&to)[4], uint32_t address) {
  uint32_t all[32];
  emulator::Block::current().exchange(address, all);
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t i = 0; i < 4; ++i) {
    std::memcpy(&to[i], emulator::Block::current().pointer_to(all[i * 8 + lane / 4] + lane % 4 * 4),
                4);
  }
}

inline void store_matrices(uint32_t address, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  uint32_t all[32];
  emulator::Block::current().exchange(address, all);
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t values[4] = {a, b, c, d};
  for (uint32_t i = 0; i < 4; ++i) {
    std::memcpy(emulator::Block::current().pointer_to(all[i * 8 + lane / 4] + lane % 4 * 4),
                &values[i], 4);
  }
}

inline void load_transposed(uint32_t (&to)[4], uint32_t address) {
  uint32_t all[32];
  emulator::Block::current().exchange(address, all);
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t i = 0; i < 4; ++i) {
    uint16_t pair[2];
    for (uint32_t j = 0; j < 2; ++j) {
      const uint32_t row = all[i * 8 + lane % 4 * 2 + j];
      std::memcpy(&pair[j], emulator::Block::current().pointer_to(row + lane / 4 * 2), 2);
    }
    std::memcpy(&to[i], pair, 4);
  }
}

inline void copy_async(uint32_t to, const void* from, bool wanted) {
  void* place = emulator::Block::current().pointer_to(to);
  if (wanted) {
    std::memcpy(place, from, 16);
  } else {
    std::memset(place, 0, 16);
  }
}

inline void commit_copies() {}

template <int kPending>
void wait_copies() {}

inline float exp2_fast(float x) { return std::exp2(x); }
inline float reciprocal_fast(float x) { return 1.0f / x; }

}  // namespace lorax::cuda
