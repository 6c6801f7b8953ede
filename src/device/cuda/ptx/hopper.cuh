// Hopper's own instructions (sm_90a) as the kernels for it use them: warpgroup products,
// barriers in shared memory that count bytes, and copies by the tensor memory accelerator.
//
// A tile in shared memory is made of panels of 64 columns: rows of 128 bytes, whose chunk of 16
// bytes c lies at place c ^ (row % 8) (the 128-byte swizzle). Panels begin at multiples of 1,024.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "device/cuda/ptx/vector.cuh"

namespace lorax::cuda {

// ---- barriers ---------------------------------------------------------------------------------

__device__ inline void init_barrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers known to the copy engine.
__device__ inline void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives, and has the barrier's phase wait for `bytes` of copies too.
__device__ inline void arrive_expecting(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

// Until the phase of this parity is complete. Of a fresh barrier the phase before the first, of
// parity 1, is.
__device__ inline void wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// Among kThreads threads of a block; id 0 is __syncthreads().
template <int kThreads>
__device__ void sync_threads(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
}
__device__ inline void sync_warpgroup(int id) { sync_threads<128>(id); }

// The same without waiting for the others.
template <int kThreads>
__device__ void arrive_threads(int id) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
}

// What this thread stored to shared memory becomes visible to products and to the copy engine.
__device__ inline void fence_stores() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- clusters ---------------------------------------------------------------------------------

// All threads of a cluster's blocks: what they stored before is seen after.
__device__ inline void sync_cluster() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

// Arrives at the barrier that lies at `barrier` in the cluster's block `rank`.
__device__ inline void arrive_in_cluster(uint32_t barrier, int rank) {
  asm volatile(
      "{\n.reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}\n" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

// Four floats that lie at `address` in the shared memory of the cluster's block `rank`.
__device__ inline float4 load_of_cluster(uint32_t address, int rank) {
  float4 values;
  asm volatile(
      "{\n.reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %4, %5;\n"
      "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there];\n}\n"
      : "=f"(values.x), "=f"(values.y), "=f"(values.z), "=f"(values.w)
      : "r"(address), "r"(rank)
      : "memory");
  return values;
}

// ---- copies -----------------------------------------------------------------------------------

// Starts copying the map's box at (column, head, slot) to `to` and tells `barrier` its bytes. What
// lies outside the tensor arrives as zeros.
__device__ inline void copy_box(uint32_t to, const CUtensorMap& map, int column, int head, int slot,
                                uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
      "l"(&map), "r"(column), "r"(head), "r"(slot), "r"(barrier)
      : "memory");
}

// The same for `bytes` in a row, a multiple of 16; both addresses are.
__device__ inline void copy_bytes(uint32_t to, const void* from, int bytes, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

// The same of a map of two dimensions, at (column, row).
__device__ inline void copy_box(uint32_t to, const CUtensorMap& map, int column, int row,
                                uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

// The same to `to` in each block of the cluster whose bit is set in `blocks`, where it tells the
// barrier that lies at `barrier`.
__device__ inline void copy_box_to_all(uint32_t to, const CUtensorMap& map, int column, int row,
                                       uint32_t barrier, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(barrier), "h"(blocks)
      : "memory");
}

// Starts copying the box that lies at `from` to (column, row) of a map of two dimensions; what lies
// outside the tensor is left out.
__device__ inline void store_box(const CUtensorMap& map, uint32_t from, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(
          &map),
      "r"(column), "r"(row), "r"(from)
      : "memory");
}
__device__ inline void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until what this thread stored has been read from shared memory.
__device__ inline void wait_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
// Until it is stored.
__device__ inline void wait_stores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

__device__ inline void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// ---- products ---------------------------------------------------------------------------------

// Gives up registers, or takes them: all warps of a warpgroup together.
template <int kRegisters>
__device__ void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// An operand in shared memory: the lower half of its descriptor; the upper half is the same for all
// (128-byte swizzle, groups of eight rows 1,024 bytes apart). panel_bytes, the distance of panels,
// matters only to an operand whose rows are summed over.
__device__ inline uint32_t matrix_at(uint32_t address, int panel_bytes = 16) {
  return static_cast<uint32_t>(panel_bytes / 16) << 16 | address / 16;
}
// The operand that lies `bytes` behind.
__device__ inline uint32_t behind(uint32_t matrix, int bytes) { return matrix + bytes / 16; }
__device__ inline uint64_t matrix_descriptor(uint32_t matrix) {
  return uint64_t{1u << 30 | 1024 / 16} << 32 | matrix;
}

// Before products: registers that they read or add to are in order.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Until at most kPending of the latest groups are under way.
template <int kPending>
__device__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving uses of registers that products read or write over this point.
template <int kSize>
__device__ void pin(float (&registers)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}
template <int kSize>
__device__ void pin(uint32_t (&registers)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) asm volatile("" : "+r"(registers[i])::"memory");
}

// The operand lists of the asm statements below.
#define LORAX_D32                                                                              \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
  "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define LORAX_D40 LORAX_D32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define LORAX_D64                                                                                \
  LORAX_D40                                                                                      \
  ", %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, " \
  "%58, %59, %60, %61, %62, %63"
#define LORAX_D128                                                                               \
  LORAX_D64                                                                                      \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, " \
  "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, "   \
  "%100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, "   \
  "%115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define LORAX_BIND8(d, i)                                                                     \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define LORAX_BIND32_AT(d, i) \
  LORAX_BIND8(d, i), LORAX_BIND8(d, i + 8), LORAX_BIND8(d, i + 16), LORAX_BIND8(d, i + 24)
#define LORAX_BIND32(d) LORAX_BIND32_AT(d, 0)
#define LORAX_BIND40(d) LORAX_BIND32(d), LORAX_BIND8(d, 32)
#define LORAX_BIND64(d) LORAX_BIND32(d), LORAX_BIND32_AT(d, 32)
#define LORAX_BIND128(d) LORAX_BIND64(d), LORAX_BIND32_AT(d, 64), LORAX_BIND32_AT(d, 96)

#define LORAX_PRODUCT_SHARED_OF(type, n, size, a_at, b_at, add_at)                                \
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " add_at                                     \
               ", 0;\n"                                                                           \
               "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" LORAX_D##size  \
               "}, " a_at ", " b_at ", add, 1, 1, 0, 0;\n}\n"                                     \
               : LORAX_BIND##size(d)                                                              \
               : "l"(matrix_descriptor(a)), "l"(matrix_descriptor(b)), "r"(static_cast<int>(add)) \
               : "memory")
#define LORAX_PRODUCT_REGISTERS_OF(type, n, size, a0, a1, a2, a3, b_at)                 \
  asm volatile(                                                                         \
      "{\n.reg .pred add;\nsetp.eq.b32 add, 0, 0;\n"                                    \
      "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" LORAX_D##size \
      "}, {" a0 ", " a1 ", " a2 ", " a3 "}, " b_at ", add, 1, 1, 1;\n}\n"               \
      : LORAX_BIND##size(d)                                                             \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(matrix_descriptor(b))           \
      : "memory")
// The instruction's name holds the type, and an asm statement takes literals only.
#define LORAX_PRODUCT_SHARED(...)                 \
  if constexpr (std::is_same_v<T, float16>) {     \
    LORAX_PRODUCT_SHARED_OF("f16", __VA_ARGS__);  \
  } else {                                        \
    LORAX_PRODUCT_SHARED_OF("bf16", __VA_ARGS__); \
  }
#define LORAX_PRODUCT_REGISTERS(...)                 \
  if constexpr (std::is_same_v<T, float16>) {        \
    LORAX_PRODUCT_REGISTERS_OF("f16", __VA_ARGS__);  \
  } else {                                           \
    LORAX_PRODUCT_REGISTERS_OF("bf16", __VA_ARGS__); \
  }

// Starts d = a * b^T, or d += a * b^T if `add`: a [64, 16], b [kColumns, 16] of T, bfloat16 or
// float16, in shared memory. The warpgroup's warp w holds rows 16 w + [0, 16) of d, in each eight
// columns as in mma().
template <typename T, int kColumns>
__device__ void multiply_shared(float (&d)[kColumns / 2], uint32_t a, uint32_t b, bool add) {
  static_assert(kColumns == 64 || kColumns == 80 || kColumns == 128 || kColumns == 256);
  if constexpr (kColumns == 64) {
    LORAX_PRODUCT_SHARED("64", 32, "%32", "%33", "%34")
  } else if constexpr (kColumns == 80) {
    LORAX_PRODUCT_SHARED("80", 40, "%40", "%41", "%42")
  } else if constexpr (kColumns == 128) {
    LORAX_PRODUCT_SHARED("128", 64, "%64", "%65", "%66")
  } else {
    LORAX_PRODUCT_SHARED("256", 128, "%128", "%129", "%130")
  }
}

// Starts d += a * b: a [64, 16] in registers, as in mma(); b [16, kColumns] in shared memory.
template <typename T, int kColumns>
__device__ void multiply_registers(float (&d)[kColumns / 2], const uint32_t* a, uint32_t b) {
  static_assert(kColumns == 64 || kColumns == 128 || kColumns == 256);
  if constexpr (kColumns == 64) {
    LORAX_PRODUCT_REGISTERS("64", 32, "%32", "%33", "%34", "%35", "%36")
  } else if constexpr (kColumns == 128) {
    LORAX_PRODUCT_REGISTERS("128", 64, "%64", "%65", "%66", "%67", "%68")
  } else {
    LORAX_PRODUCT_REGISTERS("256", 128, "%128", "%129", "%130", "%131", "%132")
  }
}

#undef LORAX_PRODUCT_REGISTERS
#undef LORAX_PRODUCT_SHARED
#undef LORAX_PRODUCT_REGISTERS_OF
#undef LORAX_PRODUCT_SHARED_OF
#undef LORAX_BIND128
#undef LORAX_BIND64
#undef LORAX_BIND40
#undef LORAX_BIND32
#undef LORAX_BIND32_AT
#undef LORAX_BIND8
#undef LORAX_D128
#undef LORAX_D64
#undef LORAX_D40
#undef LORAX_D32

}  // namespace lorax::cuda
