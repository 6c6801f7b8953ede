// device/cuda/ptx/hopper.cuh, emulated: copies and products are done when they are asked for.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "device/cuda/ptx/mma.cuh"
#include "device/cuda/ptx/vector.cuh"
#include "emulator.h"

namespace lorax::cuda {

// ---- barriers ---------------------------------------------------------------------------------

inline void init_barrier(uint32_t barrier, int arrivals) {
  emulator::Block::current().init_barrier(barrier, arrivals);
}

inline void publish_barriers() {}

inline void arrive(uint32_t barrier) { emulator::Block::current().update_barrier(barrier, 1, 0); }

inline void arrive_expecting(uint32_t barrier, int bytes) {
  emulator::Block::current().update_barrier(barrier, 1, bytes);
}

inline void bring(uint32_t barrier, int bytes) {
  emulator::Block::current().update_barrier(barrier, 0, -bytes);
}

inline void wait(uint32_t barrier, uint32_t parity) {
  emulator::Block& block = emulator::Block::current();
  while (block.barrier_phase(barrier) % 2 == parity) block.yield();
}

template <int kThreads>
void sync_threads(int id) {
  emulator::Block::current().synchronize(id, kThreads);
}
template <int kThreads>
void arrive_threads(int id) {
  emulator::Block::current().arrive(id, kThreads);
}
inline void sync_warpgroup(int id) { sync_threads<128>(id); }

inline void fence_stores() {}

// ---- clusters ---------------------------------------------------------------------------------

inline void sync_cluster() { emulator::Block::current().synchronize_cluster(); }

inline float4 load_of_cluster(uint32_t address, int rank) {
  float4 values;
  std::memcpy(&values, emulator::Block::current().pointer_in_cluster(address, rank),
              sizeof(values));
  return values;
}

inline void arrive_in_cluster(uint32_t barrier, int rank) {
  emulator::Block::current().of_cluster(rank).update_barrier(barrier, 1, 0);
}

// ---- copies -----------------------------------------------------------------------------------

inline void demand(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "emulator: %s\n", what);
  std::abort();
}

inline void copy_bytes(uint32_t to, const void* from, int bytes, uint32_t barrier) {
  demand(to % 16 == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0 && bytes % 16 == 0,
         "a copy that is not aligned");
  std::memcpy(emulator::Block::current().pointer_to(to), from, static_cast<size_t>(bytes));
  bring(barrier, bytes);
}

// What a CUtensorMap of a matrix holds here: boxes of 64 columns.
struct MatrixMap {
  const uint16_t* data;
  int64_t rows, columns, stride;
  int box_rows;
};

// The place of an element in a tile, with the 128-byte swizzle.
inline uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

inline MatrixMap matrix_of(const CUtensorMap& map) {
  MatrixMap matrix;
  std::memcpy(&matrix, &map, sizeof(matrix));
  return matrix;
}

// Into the memory of the block.
inline void copy_box_to(emulator::Block& block, uint32_t to, const MatrixMap& matrix, int column,
                        int row, uint32_t barrier) {
  demand(to % 1024 == 0, "a box that is not aligned");
  for (int i = 0; i < matrix.box_rows; ++i) {
    for (int j = 0; j < 64; ++j) {
      const bool inside = row + i < matrix.rows && column + j < matrix.columns;
      const uint16_t value =
          inside ? matrix.data[(row + i) * matrix.stride + column + j] : uint16_t{0};
      const uint32_t place = swizzled(to + static_cast<uint32_t>(i * 128 + j * 2));
      std::memcpy(block.pointer_to(place), &value, sizeof(value));
    }
  }
  block.update_barrier(barrier, 0, -matrix.box_rows * 128);
}

inline void copy_box(uint32_t to, const CUtensorMap& map, int column, int row, uint32_t barrier) {
  copy_box_to(emulator::Block::current(), to, matrix_of(map), column, row, barrier);
}

inline void copy_box_to_all(uint32_t to, const CUtensorMap& map, int column, int row,
                            uint32_t barrier, uint16_t blocks) {
  for (int rank = 0; rank < 16; ++rank) {
    if ((blocks >> rank & 1) == 0) continue;
    copy_box_to(emulator::Block::current().of_cluster(rank), to, matrix_of(map), column, row,
                barrier);
  }
}

inline void store_box(const CUtensorMap& map, uint32_t from, int column, int row) {
  demand(from % 1024 == 0, "a box that is not aligned");
  const MatrixMap matrix = matrix_of(map);
  for (int i = 0; i < matrix.box_rows && row + i < matrix.rows; ++i) {
    for (int j = 0; j < 64 && column + j < matrix.columns; ++j) {
      const uint32_t place = swizzled(from + static_cast<uint32_t>(i * 128 + j * 2));
      std::memcpy(const_cast<uint16_t*>(matrix.data) + (row + i) * matrix.stride + column + j,
                  emulator::Block::current().pointer_to(place), 2);
    }
  }
}
inline void commit_stores() {}
inline void wait_stores_read() {}
inline void wait_stores() {}

// A map of panels, see make_panel_map(): boxes of eight panels.
inline void copy_box(uint32_t to, const CUtensorMap& map, int column, int row, int panel,
                     uint32_t barrier) {
  demand(to % 1024 == 0 && column == 0, "a box of panels that is not aligned");
  MatrixMap matrix;
  std::memcpy(&matrix, &map, sizeof(matrix));
  for (int p = 0; p < 8; ++p) {
    for (int i = 0; i < matrix.box_rows; ++i) {
      for (int j = 0; j < 64; ++j) {
        const int64_t at = int64_t{panel + p} * 64 + j;
        const bool inside = row + i < matrix.rows && at < matrix.columns;
        const uint16_t value = inside ? matrix.data[(row + i) * matrix.stride + at] : uint16_t{0};
        const uint32_t place =
            swizzled(to + static_cast<uint32_t>((p * matrix.box_rows + i) * 128 + j * 2));
        std::memcpy(emulator::Block::current().pointer_to(place), &value, sizeof(value));
      }
    }
  }
  bring(barrier, 8 * matrix.box_rows * 128);
}

inline void prefetch_map(const CUtensorMap&) {}

// ---- products ---------------------------------------------------------------------------------

template <int kRegisters>
void shrink_registers() {}
template <int kRegisters>
void grow_registers() {}

// Of operands whose rows are not summed over, which have no other panels.
inline uint32_t matrix_at(uint32_t address) { return address / 16; }
inline uint32_t behind(uint32_t matrix, int bytes) {
  return matrix + static_cast<uint32_t>(bytes) / 16;
}

inline void begin_products() {}
inline void commit_products() {}
// A lane does its part when it asks for the product: all of a warp must have.
template <int kPending>
void wait_products() {
  char all[32];
  emulator::Block::current().exchange(char{0}, all);
}
template <typename T, int kSize>
void pin(T (&)[kSize]) {}

template <typename T, int kColumns>
void multiply_shared(float (&d)[kColumns / 2], uint32_t a, uint32_t b, bool add) {
  const auto value = [](uint32_t matrix, uint32_t row, uint32_t k) {
    const uint32_t begin = matrix * 16;
    T element;
    std::memcpy(&element,
                emulator::Block::current().pointer_to(
                    swizzled(begin + row / 8 * 1024 + row % 8 * 128 + k * 2)),
                sizeof(element));
    return double{to_float(element)};
  };
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32 % 4;
  for (uint32_t i = 0; i < kColumns / 2; ++i) {
    const uint32_t row = warp * 16 + lane / 4 + i / 2 % 2 * 8;
    const uint32_t column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    double sum = add ? double{d[i]} : 0.0;
    for (uint32_t k = 0; k < 16; ++k) sum += value(a, row, k) * value(b, column, k);
    d[i] = static_cast<float>(sum);
  }
}

}  // namespace lorax::cuda
