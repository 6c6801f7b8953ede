// device/cuda/ptx/memory_order.cuh, emulated.
#pragma once

#include <cstdint>

#include "emulator.h"

namespace lorax::cuda {

inline void add_released(uint32_t* to, uint32_t value) {
  __atomic_fetch_add(to, value, __ATOMIC_SEQ_CST);
}

inline void store_released(uint32_t* to, uint32_t value) {
  __atomic_store_n(to, value, __ATOMIC_SEQ_CST);
}

// Those who ask in a loop must let others run.
inline uint32_t load_acquired(const uint32_t* from) {
  emulator::Block::current().yield();
  return __atomic_load_n(from, __ATOMIC_SEQ_CST);
}

}  // namespace lorax::cuda
