// Products of many rows of bfloat16 on compute capability 9.0, bound by the tensor cores; on demand
// with the MLP's activation in the epilogue.
//
// A persistent kernel of one block on each multiprocessor. Two neighbours are a cluster and
// multiply tiles of 128 rows of x, one below the other, by the same 256 rows of the weight: each
// copies one half of them to both (TMA multicast), and its own rows of x. In a block a producer
// warp keeps a pipeline of k-tiles filled, and two consumer warpgroups multiply 64 rows by 256
// columns each, with their sums in registers. Of a product with activation the 256 columns are 128
// of gate and the same 128 of up, which then lie in the same thread.
//
// gemm_schedule.cuh has the order of the tiles and of the sums.
#include <algorithm>

#include "device/cuda/ops/kernels.h"
#include "device/cuda/ops/launch.cuh"
#include "device/cuda/products/gemm_schedule.cuh"
#include "device/cuda/ptx/hopper.cuh"
#include "device/cuda/ptx/memory_order.cuh"
#include "device/cuda/ptx/mma.cuh"
#include "device/cuda/runtime/page_map.h"
#include "device/cuda/tile/gelu.cuh"

#ifndef __CUDA_ARCH_FEAT_SM90_ALL
#pragma nv_diag_suppress 177  // of other architectures the kernel is empty and uses nothing of this
#endif

namespace lorax::cuda {
namespace {

constexpr int kCluster = 2;
constexpr int kConsumers = 2;  // warpgroups
constexpr int kThreads = (1 + kConsumers) * 128;
constexpr int kWarpgroupRows = 64;
constexpr int kBlockRows = kConsumers * kWarpgroupRows;
constexpr int kHalf = 128;           // rows of the weight that a block copies
constexpr int kTile = 2 * kHalf;     // rows of the weight that a block multiplies with
constexpr int kDepth = 64;           // terms of a k-tile
constexpr int kPanelBytes = 64 * 2;  // of a row of 64 columns
constexpr int kStages = 4;
constexpr int kRowBytes = kBlockRows * kDepth * 2;  // of a stage: x, then the weight
constexpr int kHalfBytes = kHalf * kDepth * 2;
constexpr int kStageBytes = kRowBytes + 2 * kHalfBytes;
constexpr int kOutPanel = kWarpgroupRows * kPanelBytes;
constexpr int kOutBytes = 2 * kOutPanel;  // of a warpgroup: 128 columns
constexpr int kOut = kStages * kStageBytes;
constexpr int kBytes = 1024 + kOut + kConsumers * kOutBytes;
constexpr int kSums = kTile / 2;  // of a thread

struct GemmArgs {
  TileSchedule schedule;
  int out_columns;  // of a tile: 256, or 128 with activation
  int second_half;  // rows of the weight from a tile's first half to its second
  float4* parts;    // of sums that are cut, [blocks, kConsumers, kSums / 4, 128]
  uint32_t* flags;  // [blocks, kConsumers], zeros between launches: the part is there
};

struct Maps {
  CUtensorMap x;
  CUtensorMap weight;
  CUtensorMap out;
};

// Where a block's stages and their barriers are.
struct Pipeline {
  uint32_t stages;
  uint32_t barriers;

  __device__ uint32_t x(int stage) const { return stages + stage * kStageBytes; }
  __device__ uint32_t weight(int stage) const { return x(stage) + kRowBytes; }
  __device__ uint32_t full(int stage) const { return barriers + stage * 8; }
  __device__ uint32_t free(int stage) const { return full(kStages + stage); }
};

// The place in the pipeline of a k-tile, counted through all pieces.
struct Place {
  int stage = 0;
  uint32_t phase = 0;

  __device__ void advance() {
    if (++stage < kStages) return;
    stage = 0;
    phase ^= 1;
  }
};

// Copies the k-tiles of all pieces. One thread.
__device__ void produce(const GemmArgs& args, const Maps& maps, const Pipeline& pipeline,
                        int cluster, int rank) {
  constexpr uint16_t kBoth = 3;
  Pieces pieces(args.schedule, cluster);
  Piece piece;
  Place place;
  wait_for_previous();
  while (pieces.next(piece)) {
    int row_tile, column_tile;
    args.schedule.find(piece.tile, row_tile, column_tile);
    const int row = (row_tile * kCluster + rank) * kBlockRows;
    const int weight_row = column_tile * args.out_columns + rank * args.second_half;
    for (int k = piece.begin; k < piece.end; ++k, place.advance()) {
      const uint32_t full = pipeline.full(place.stage);
      wait(pipeline.free(place.stage), place.phase ^ 1);
      arrive_expecting(full, kStageBytes);
      copy_box(pipeline.x(place.stage), maps.x, k * kDepth, row, full);
      copy_box_to_all(pipeline.weight(place.stage) + rank * kHalfBytes, maps.weight, k * kDepth,
                      weight_row, full, kBoth);
    }
  }
}

// Multiplies the k-tiles of a piece.
__device__ void multiply(const Pipeline& pipeline, const Piece& piece, int warpgroup, Place& place,
                         float (&sums)[kSums]) {
  const int lane = threadIdx.x % 32;
  // Lane r tells the cluster's block r, whose copies fill both blocks' stages.
  const auto release = [&](int stage) {
    if (lane < kCluster) arrive_in_cluster(pipeline.free(stage), lane);
  };
  int last = 0;
#pragma unroll 1
  for (int k = piece.begin; k < piece.end; ++k, place.advance()) {
    wait(pipeline.full(place.stage), place.phase);
    const uint32_t x =
        matrix_at(pipeline.x(place.stage) + warpgroup * (kWarpgroupRows * kPanelBytes));
    const uint32_t weight = matrix_at(pipeline.weight(place.stage));
    pin(sums);
    begin_products();
#pragma unroll
    for (int step = 0; step < kDepth / 16; ++step) {
      multiply_shared<bfloat16, kTile>(sums, behind(x, step * 32), behind(weight, step * 32),
                                       step > 0 || k > piece.begin);
    }
    commit_products();
    wait_products<1>();
    if (k > piece.begin) release(last);
    last = place.stage;
  }
  wait_products<0>();
  pin(sums);
  release(last);
}

// The part of a tile's sums that lies between threads of the same place in two blocks.
__device__ float4* part_of(const GemmArgs& args, int block, int warpgroup) {
  return args.parts + (block * kConsumers + warpgroup) * (kSums / 4 * 128) + threadIdx.x % 128;
}

__device__ void leave_part(const GemmArgs& args, int block, int warpgroup,
                           const float (&sums)[kSums]) {
  float4* to = part_of(args, block, warpgroup);
#pragma unroll
  for (int i = 0; i < kSums / 4; ++i) {
    __stcg(to + i * 128,
           make_float4(sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]));
  }
  __threadfence();
  sync_warpgroup(1 + warpgroup);
  if (threadIdx.x % 128 == 0) store_released(args.flags + block * kConsumers + warpgroup, 1);
}

// Adds what the next clusters left of the piece's tile.
__device__ void add_parts(const GemmArgs& args, const Piece& piece, int cluster, int rank,
                          int warpgroup, float (&sums)[kSums]) {
  const int end = (piece.tile + 1) * args.schedule.k_tiles;
  for (int other = cluster + 1; args.schedule.range_begin(other) < end; ++other) {
    if (args.schedule.range_begin(other) == args.schedule.range_begin(other + 1)) continue;
    const int block = other * kCluster + rank;
    uint32_t* flag = args.flags + block * kConsumers + warpgroup;
    while (load_acquired(flag) == 0) {
    }
    const float4* from = part_of(args, block, warpgroup);
#pragma unroll
    for (int i = 0; i < kSums / 4; ++i) {
      const float4 more = __ldcg(from + i * 128);
      sums[4 * i] += more.x;
      sums[4 * i + 1] += more.y;
      sums[4 * i + 2] += more.z;
      sums[4 * i + 3] += more.w;
    }
    sync_warpgroup(1 + warpgroup);  // all have seen the flag
    if (threadIdx.x % 128 == 0) *flag = 0;
  }
}

// Stores a warpgroup's 64 rows of 128 columns, `rounded` as pairs in the products' order, through
// its room in shared memory.
__device__ void write_columns(const Maps& maps, uint32_t room, const uint32_t (&rounded)[kSums / 4],
                              int warpgroup, int row, int column) {
  const int lane = threadIdx.x % 32;
  const int in_room = threadIdx.x / 32 % 4 * 16 + lane % 16;  // row that the lane addresses
  const bool first = threadIdx.x % 128 == 0;
  if (first) wait_stores_read();  // what was stored before has left the room
  sync_warpgroup(1 + warpgroup);
#pragma unroll
  for (int pair = 0; pair < 8; ++pair) {  // of chunks of eight columns
    const int chunk = pair * 2 + lane / 16;
    const uint32_t to =
        room + chunk / 8 * kOutPanel + in_room * kPanelBytes + ((chunk % 8) ^ (in_room % 8)) * 16;
    store_matrices(to, rounded[pair * 4], rounded[pair * 4 + 1], rounded[pair * 4 + 2],
                   rounded[pair * 4 + 3]);
  }
  fence_stores();
  sync_warpgroup(1 + warpgroup);
  if (first) {
    store_box(maps.out, room, column, row);
    store_box(maps.out, room + kOutPanel, column + 64, row);
    commit_stores();
  }
}

template <bool kGated>
__device__ void write_tile(const Maps& maps, uint32_t room, const float (&sums)[kSums],
                           int warpgroup, int row, int column) {
  constexpr int kPairs = kSums / 4;  // of 128 columns
  uint32_t rounded[kPairs];
  if constexpr (kGated) {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const float2 gate = unpack<bfloat16>(pack<bfloat16>(sums[2 * i], sums[2 * i + 1]));
      const float2 up =
          unpack<bfloat16>(pack<bfloat16>(sums[kSums / 2 + 2 * i], sums[kSums / 2 + 2 * i + 1]));
      rounded[i] = pack<bfloat16>(gelu_tanh_mul<bfloat16>(gate.x, up.x),
                                  gelu_tanh_mul<bfloat16>(gate.y, up.y));
    }
    write_columns(maps, room, rounded, warpgroup, row, column);
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        const int at = half * (kSums / 2) + 2 * i;
        rounded[i] = pack<bfloat16>(sums[at], sums[at + 1]);
      }
      write_columns(maps, room, rounded, warpgroup, row, column + half * kHalf);
    }
  }
}

template <bool kGated>
__device__ void consume(const GemmArgs& args, const Maps& maps, const Pipeline& pipeline,
                        uint32_t room, int cluster, int rank, int warpgroup) {
  Pieces pieces(args.schedule, cluster);
  Piece piece;
  Place place;
  float sums[kSums];
  while (pieces.next(piece)) {
    multiply(pipeline, piece, warpgroup, place, sums);
    if (piece.begin > 0) {
      leave_part(args, cluster * kCluster + rank, warpgroup, sums);
      continue;
    }
    if (piece.end < args.schedule.k_tiles) {
      add_parts(args, piece, cluster, rank, warpgroup, sums);
    }
    int row_tile, column_tile;
    args.schedule.find(piece.tile, row_tile, column_tile);
    const int row = (row_tile * kCluster + rank) * kBlockRows + warpgroup * kWarpgroupRows;
    write_tile<kGated>(maps, room, sums, warpgroup, row, column_tile * args.out_columns);
  }
  if (threadIdx.x % 128 == 0) wait_stores();
}

template <bool kGated>
__global__ void __launch_bounds__(kThreads, 1)
    gemm_hopper_kernel(const __grid_constant__ GemmArgs args, const __grid_constant__ Maps maps) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ unsigned char raw_shared[];
  __shared__ uint64_t barriers[2 * kStages];
  start_next();
  const uint32_t start = (shared_address(raw_shared) + 1023) / 1024 * 1024;
  const Pipeline pipeline{start, shared_address(barriers)};
  const int cluster = static_cast<int>(blockIdx.x) / kCluster;
  const int rank = static_cast<int>(blockIdx.x) % kCluster;
  if (threadIdx.x == 0) {
    prefetch_map(maps.x);
    prefetch_map(maps.weight);
    prefetch_map(maps.out);
    for (int stage = 0; stage < kStages; ++stage) {
      init_barrier(pipeline.full(stage), 1);
      init_barrier(pipeline.free(stage), kCluster * kConsumers * 4);  // warps
    }
    publish_barriers();
  }
  sync_cluster();
  // The compiler cannot know that it is the same in all lanes.
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
  if (warpgroup == kConsumers) {
    shrink_registers<40>();
    if (threadIdx.x == kConsumers * 128) produce(args, maps, pipeline, cluster, rank);
  } else {
    grow_registers<232>();
    const uint32_t room = start + kOut + warpgroup * kOutBytes;
    consume<kGated>(args, maps, pipeline, room, cluster, rank, warpgroup);
  }
  __syncwarp();
  sync_cluster();  // nobody copies to a block that has ended
#endif
}

// How many clusters the GPU runs at once. Asked once; the GPUs of a process are of one kind.
int clusters_at_once() {
  static const int count = [] {
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = kCluster;
    cluster.val.clusterDim.y = 1;
    cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(kCluster);
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = kBytes;
    config.attrs = &cluster;
    config.numAttrs = 1;
    int clusters = 0;
    const cudaError_t status =
        cudaOccupancyMaxActiveClusters(&clusters, gemm_hopper_kernel<true>, &config);
    return status == cudaSuccess ? clusters : 0;
  }();
  return count;
}

template <bool kGated>
bool launch(Stream stream, const LinearArgs& args, const GemmRoom& room) {
  if (!takes_gemm_hopper(stream, args, room)) return false;
  const int64_t out_columns = kGated ? args.m / 2 : args.m;
  const int64_t tile_columns = kGated ? kHalf : kTile;
  Maps maps;
  if (!make_matrix_map(maps.x, args.x.data, args.rows, args.n, args.x.stride, kBlockRows) ||
      !make_matrix_map(maps.weight, args.weight, args.m, args.n, args.n, kHalf) ||
      !make_matrix_map(maps.out, args.out.data, args.rows, out_columns, args.out.stride,
                       kWarpgroupRows)) {
    return false;
  }
  const int row_tiles = static_cast<int>(blocks_for(args.rows, kCluster * kBlockRows));
  const int column_tiles = static_cast<int>(blocks_for(out_columns, tile_columns));
  const int k_tiles = static_cast<int>(blocks_for(args.n, kDepth));
  const int clusters = clusters_at_once();
  const GemmArgs gemm{.schedule = TileSchedule::make(clusters, row_tiles, column_tiles, k_tiles),
                      .out_columns = static_cast<int>(tile_columns),
                      .second_half = static_cast<int>(kGated ? args.m / 2 : kHalf),
                      .parts = static_cast<float4*>(room.parts),
                      .flags = room.flags};
  launch_clusters(stream, static_cast<unsigned>(clusters * kCluster), kCluster, kThreads, kBytes,
                  gemm_hopper_kernel<kGated>, gemm, maps);
  return true;
}

}  // namespace

bool takes_gemm_hopper(const Stream& stream, const LinearArgs& args, const GemmRoom& room) {
  return stream.hopper && args.rows > kHopperRows && args.x.dtype == DType::kBFloat16 &&
         args.out.dtype == DType::kBFloat16 && clusters_at_once() > 0 &&
         room.bytes >= static_cast<size_t>(clusters_at_once()) * kCluster * kConsumers * kSums *
                           128 * sizeof(float);
}

bool gemm_hopper(Stream stream, const LinearArgs& args, const GemmRoom& room) {
  return launch<false>(stream, args, room);
}

bool gemm_hopper_gelu_tanh_mul(Stream stream, const LinearArgs& args, const GemmRoom& room) {
  return args.m % (2 * kHalf) == 0 && launch<true>(stream, args, room);
}

cudaError_t prepare_gemm_hopper() {
  const cudaError_t status = cudaFuncSetAttribute(
      gemm_hopper_kernel<true>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  return status != cudaSuccess
             ? status
             : cudaFuncSetAttribute(gemm_hopper_kernel<false>,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
}

}  // namespace lorax::cuda
