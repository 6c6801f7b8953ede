// Products of 9 to 64 rows of bfloat16 on compute capability 9.0, with the rows' low-rank parts:
// bound by reading the weights, which are read once, through the tensor memory accelerator.
//
// out^T = weight * x^T: a block's tile is 256 rows of the weight by all rows of x, which wgmma
// reads from shared memory, 64 terms of the sums at a time. The terms are cut into kSplit parts,
// whose blocks are a cluster: they add up in ascending order through each other's shared memory,
// and finish a share of the rows of x each. The cut follows from the shape of the weight and the
// GPU: a row's bits depend neither on the other rows nor on their number.
//
// Three parts of a block work side by side: a warp that copies tiles, a warpgroup that multiplies
// them, and one that meanwhile multiplies A x, which lora_shrink left in LoraArgs::h, by the
// block's panels of B: the low-rank part is there when the product is. While the kernel before
// still runs, the first tiles of the weight are on their way.
#include "device/cuda/lora/lora_panel.cuh"
#include "device/cuda/lora/lora_tile.cuh"
#include "device/cuda/ops/kernels.h"
#include "device/cuda/ops/launch.cuh"
#include "device/cuda/ptx/hopper.cuh"
#include "device/cuda/runtime/page_map.h"

namespace lorax::cuda {
namespace {

constexpr int kPieces = 4;           // of 64 rows, of a tile:
constexpr int kTile = kPieces * 64;  // rows of the weight
constexpr int kRows = static_cast<int>(kHopperRows);
constexpr int kDepth = 64;  // terms of a stage
constexpr int kThreads = 2 * 128 + 32;
constexpr int kTileBytes = kTile * kDepth * 2;
constexpr int kStageBytes = kTileBytes + kRows * kDepth * 2;
constexpr int kSumStride = kTile + 4;  // of a row of sums: banks apart
constexpr int kMostSegments = 256;     // that blocks look through

// One instance of the kernel.
template <int kSplit_>
struct Shape {
  static constexpr int kSplit = kSplit_;
  static constexpr int kStages = kSplit <= 2 ? 4 : 5;
  static constexpr int kShare = kRows / kSplit;  // rows of x that a block finishes
  static constexpr int kBytes = 1024 + kStages * kStageBytes + kShare * kTile * 4;
  static_assert(kStages * kStageBytes >= kRows * kSumStride * 4 && kBytes <= 225 << 10);
};

struct HopperArgs {
  int rows;
  int m;
  int n;
  bfloat16* out;
  int64_t out_stride;
  LoraArgs lora;  // n_targets 0: none
};

struct Maps {
  CUtensorMap weight;
  CUtensorMap x;
};

// What the adapter of a row of the share does to the block's columns.
struct RowPart {
  const float* bias;
  const float* gain;
  bool changes;
};

// Copies the block's tiles of the weight and of x. One thread.
template <typename S>
__device__ void produce(const Maps& maps, uint32_t stages, uint32_t full, uint32_t free,
                        int first_row, int first_step, int steps) {
  const auto copy_weight = [&](int step) {
    const int stage = step % S::kStages;
    arrive_expecting(full + stage * 8, kStageBytes);
    copy_box(stages + stage * kStageBytes, maps.weight, (first_step + step) * kDepth, first_row,
             full + stage * 8);
  };
  const auto copy_x = [&](int step) {
    const int stage = step % S::kStages;
    copy_box(stages + stage * kStageBytes + kTileBytes, maps.x, (first_step + step) * kDepth, 0,
             full + stage * 8);
  };
  const int ahead = min(steps, S::kStages);
  for (int step = 0; step < ahead; ++step) copy_weight(step);
  wait_for_previous();
  for (int step = 0; step < ahead; ++step) copy_x(step);
  for (int step = ahead; step < steps; ++step) {
    wait(free + step % S::kStages * 8, (step / S::kStages - 1) % 2);
    copy_weight(step);
    copy_x(step);
  }
}

// Multiplies the tiles; the sums [kRows][kSumStride] take the stages' place.
template <typename S>
__device__ void multiply(uint32_t stages, uint32_t full, uint32_t free, int steps, float* sums) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  float products[kPieces][kRows / 2] = {};
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    const int stage = step % S::kStages;
    wait(full + stage * 8, step / S::kStages % 2);
    const uint32_t weight = matrix_at(stages + stage * kStageBytes);
    const uint32_t x = matrix_at(stages + stage * kStageBytes + kTileBytes);
#pragma unroll
    for (auto& piece : products) pin(piece);
    begin_products();
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        multiply_shared<bfloat16, kRows>(products[piece],
                                         behind(weight, piece * 64 * kDepth * 2 + k * 32),
                                         behind(x, k * 32), true);
      }
    }
    commit_products();
    wait_products<1>();
    if (step > 0 && lane == 0) arrive(free + (step - 1) % S::kStages * 8);
  }
  wait_products<0>();
#pragma unroll
  for (auto& piece : products) pin(piece);
  sync_warpgroup(1);  // nobody reads the stages any more
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) {
      const int row = i / 4 * 8 + lane % 4 * 2 + i % 2;
      const int column = piece * 64 + warp * 16 + lane / 4 + i / 2 % 2 * 8;
      sums[row * kSumStride + column] = products[piece][i];
    }
  }
}

// What a lane holds of one segment of LoraRows for one panel of B.
struct Segment {
  const LoraEntry* entry = nullptr;
  const bfloat16* panel = nullptr;
  int begin = 0;
  int end = 0;  // no more than begin: nothing to do
  int rank = 0;
};

// Segment `index`, if it has rows among `wanted`, bits of LoraRows' rows; its first ranks are put
// on their way to the L2 cache.
template <int kRanks>
__device__ Segment load_segment(const LoraArgs& args, int index, int target, int64_t first_panel,
                                uint64_t wanted) {
  Segment segment;
  if (index >= args.n_segments) return segment;
  segment.begin = args.segments[index];
  segment.end = args.segments[index + 1];
  const int rows = segment.end - segment.begin;
  if (rows <= 0 || (wanted >> segment.begin & ~uint64_t{0} >> (64 - rows)) == 0) {
    segment.end = segment.begin;
    return segment;
  }
  segment.entry = &entry_of(args, args.slots[index], target);
  segment.rank = segment.entry->rank;
  segment.panel =
      static_cast<const bfloat16*>(segment.entry->b) + first_panel * segment.rank * kLoraPanel;
  if (segment.rank == 0) {
    segment.end = segment.begin;
  } else {
    prefetch_to_l2(segment.panel, min(segment.rank, kRanks) * (kLoraPanel * 2));
  }
  return segment;
}

// Ranks [k, k + 16) of scale * (A x) of two rows of LoraRows, those of this lane, as operands. All
// parts are under way at a time: with an adapter in each row, a block's time is that of this chain.
[[maybe_unused]] __device__ void load_operand(const LoraArgs& args, int target,
                                              const int (&rows)[2], int k, int rank, float scale,
                                              HOperand<bfloat16>& operand) {
  const int t = threadIdx.x % 4;
  float2 parts[kMaxLoraParts][4];
#pragma unroll
  for (int part = 0; part < kMaxLoraParts; ++part) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = k + i / 2 * 8 + 2 * t;
      parts[part][i] =
          at < rank && part < args.parts
              ? *reinterpret_cast<const float2*>(h_row(args, part, target, rows[i % 2]) + at)
              : make_float2(0.0f, 0.0f);
    }
  }
  float2 h[4] = {};
#pragma unroll
  for (int part = 0; part < kMaxLoraParts; ++part) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      h[i].x += parts[part][i].x;
      h[i].y += parts[part][i].y;
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    h[i].x = __fmul_rn(h[i].x, scale);
    h[i].y = k + i / 2 * 8 + 2 * t + 1 < rank ? __fmul_rn(h[i].y, scale) : 0.0f;
    operand.set(i, h[i]);
  }
}

// The low-rank parts [kShare][kTile] of the rows [first, first + kShare) of x, and which of them
// have one. A warpgroup.
template <typename S>
__device__ void expand(const LoraArgs& args, int first_row, int first,
                       RowPart (&row_parts)[S::kShare], float* low_rank) {
  const int warp = threadIdx.x / 32 % 4;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  if (threadIdx.x % 128 < S::kShare) row_parts[threadIdx.x % 128] = {};
  int target = 0;
  while (target < args.n_targets &&
         (first_row < args.targets[target].column ||
          first_row >= args.targets[target].column + args.targets[target].columns)) {
    ++target;
  }
  if (target == args.n_targets) return wait_for_previous();
  sync_warpgroup(2);
  const int64_t column = first_row - args.targets[target].column;
  constexpr int kPanels = kTile / kLoraPanel;
  const int panel = warp % kPanels;  // of the block's

  // Of LoraRows' rows those that belong to the share.
  uint64_t wanted = 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int index = half * 32 + lane;
    const int place = index < args.last ? args.rows[index] - first : -1;
    wanted |= uint64_t{__ballot_sync(0xffffffffu, place >= 0 && place < S::kShare)} << half * 32;
  }
  int number = 0;  // of a tile; the warps of a panel take turns
#pragma unroll 1
  for (int base = 0; base < args.n_segments; base += 32) {
    const Segment segment =
        load_segment<16>(args, base + lane, target, column / kLoraPanel + panel, wanted);
    if (base == 0) wait_for_previous();
    unsigned owners = __ballot_sync(0xffffffffu, segment.end > segment.begin);
#pragma unroll 1
    for (; owners != 0; owners &= owners - 1) {
      const int owner = __ffs(owners) - 1;
      const auto of_owner = [&](auto value) { return __shfl_sync(0xffffffffu, value, owner); };
      const int end = of_owner(segment.end);
      const int rank = of_owner(segment.rank);
      const LoraEntry& entry = *reinterpret_cast<const LoraEntry*>(
          of_owner(reinterpret_cast<unsigned long long>(segment.entry)));
      const bfloat16* b = reinterpret_cast<const bfloat16*>(
                              of_owner(reinterpret_cast<unsigned long long>(segment.panel))) +
                          panel_column(g);
#pragma unroll 1
      for (int begin = of_owner(segment.begin); begin < end; begin += 16) {
        const uint64_t rows_of_tile = wanted >> begin & ~uint64_t{0} >> (64 - min(end - begin, 16));
        if (rows_of_tile == 0 || number++ % (4 / kPanels) != warp / kPanels) continue;
        int rows[2];    // of LoraRows
        int places[2];  // in the share; -1: not of it
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = begin + half * 8 + g;
          rows[half] = min(row, end - 1);
          places[half] = row < end && (wanted >> row & 1) != 0 ? args.rows[row] - first : -1;
        }
        const RowPart part = {entry.bias == nullptr ? nullptr : entry.bias + column,
                              entry.gain == nullptr ? nullptr : entry.gain + column, true};
        const float scale = entry.scale;
        float sums[kPanelGroup][4] = {};
#pragma unroll 1
        for (int k = 0; k < rank; k += 16) {
          uint4 factors[4];
          load_panel(b, k, rank, factors);
          HOperand<bfloat16> operand;
          load_operand(args, target, rows, k, rank, scale, operand);
          multiply_panel(sums, operand, factors);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if (places[half] < 0) continue;
          if (panel == 0 && t == 0) row_parts[places[half]] = part;
          float* to = low_rank + places[half] * kTile + panel * kLoraPanel + t * kPanelGroup;
#pragma unroll
          for (int j = 0; j < kPanelGroup; ++j) {
            to[j] = sums[j][half * 2];
            to[32 + j] = sums[j][half * 2 + 1];
          }
        }
        __syncwarp();
      }
    }
  }
}

// Writes the block's share of the rows: the sums of all parts, then the low-rank parts as
// lora_expand adds them.
template <typename S>
__device__ void finish(const HopperArgs& args, int first_row, int first, const float* sums,
                       const RowPart (&row_parts)[S::kShare], const float* low_rank) {
  constexpr int kLanes = kTile / 4;  // of a row
  const int column = static_cast<int>(threadIdx.x) % kLanes * 4;
  if (first_row + column >= args.m) return;
  for (int place = static_cast<int>(threadIdx.x) / kLanes; place < S::kShare;
       place += 256 / kLanes) {
    const int row = first + place;
    if (row >= args.rows) return;
    const float* from = sums + row * kSumStride + column;
    float values[4] = {};
    if constexpr (S::kSplit == 1) {
      load(from, values);
    } else {
      const uint32_t address = shared_address(from);
#pragma unroll
      for (int part = 0; part < S::kSplit; ++part) {
        const float4 more = load_of_cluster(address, part);
        values[0] += more.x;
        values[1] += more.y;
        values[2] += more.z;
        values[3] += more.w;
      }
    }
    const RowPart& part = row_parts[place];
    if (args.lora.n_targets > 0 && part.changes) {
      float more[4];
      load(low_rank + place * kTile + column, more);
#pragma unroll
      for (int j = 0; j < 4; ++j) values[j] = to_float(from_float<bfloat16>(values[j])) + more[j];
      if (part.bias != nullptr) {
        load(part.bias + column, more);
#pragma unroll
        for (int j = 0; j < 4; ++j) values[j] += more[j];
      }
      if (part.gain != nullptr) {
        load(part.gain + column, more);
#pragma unroll
        for (int j = 0; j < 4; ++j) values[j] *= more[j];
      }
    }
    store(values, args.out + row * args.out_stride + first_row + column);
  }
}

template <typename S>
__global__ void __launch_bounds__(kThreads, 1)
    linear_hopper_kernel(const __grid_constant__ HopperArgs args,
                         const __grid_constant__ Maps maps) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ unsigned char raw_shared[];
  __shared__ uint64_t barriers[2 * S::kStages];
  __shared__ RowPart row_parts[S::kShare];
  start_next();
  const uint32_t stages = (shared_address(raw_shared) + 1023) / 1024 * 1024;
  unsigned char* aligned = raw_shared + (stages - shared_address(raw_shared));
  float* sums = reinterpret_cast<float*>(aligned);
  float* low_rank = reinterpret_cast<float*>(aligned + S::kStages * kStageBytes);
  const uint32_t full = shared_address(barriers);
  const uint32_t free = full + S::kStages * 8;
  const int part = static_cast<int>(blockIdx.x) % S::kSplit;
  const int first_row = static_cast<int>(blockIdx.x) / S::kSplit * kTile;
  const int all_steps = (args.n + kDepth - 1) / kDepth;
  const int first_step = all_steps * part / S::kSplit;
  const int steps = all_steps * (part + 1) / S::kSplit - first_step;
  const int first = part * S::kShare;

  if (threadIdx.x == 2 * 128) {
    prefetch_map(maps.weight);
    prefetch_map(maps.x);
    for (int stage = 0; stage < S::kStages; ++stage) {
      init_barrier(full + stage * 8, 1);
      init_barrier(free + stage * 8, 4);  // warps
    }
    publish_barriers();
  }
  __syncthreads();
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
  if (warpgroup == 0) {
    multiply<S>(stages, full, free, steps, sums);
  } else if (warpgroup == 1) {
    if (args.lora.n_targets > 0) {
      expand<S>(args.lora, first_row, first, row_parts, low_rank);
    } else {
      wait_for_previous();
    }
  } else {
    if (threadIdx.x % 32 == 0) produce<S>(maps, stages, full, free, first_row, first_step, steps);
  }
  __syncwarp();
  if constexpr (S::kSplit == 1) {
    __syncthreads();
  } else {
    sync_cluster();
  }
  if (warpgroup < 2) finish<S>(args, first_row, first, sums, row_parts, low_rank);
  if constexpr (S::kSplit > 1) {
    __syncwarp();
    sync_cluster();  // the others have read the sums
  }
#endif
}

// How many clusters of kSplit blocks a GPU runs at once: its multiprocessors come in groups, which
// clusters do not cross. Asked once; the GPUs of a process are of one kind.
template <int kSplit>
int clusters_at_once() {
  static const int count = [] {
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = kSplit;
    cluster.val.clusterDim.y = 1;
    cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(kSplit);
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = Shape<kSplit>::kBytes;
    config.attrs = &cluster;
    config.numAttrs = 1;
    int clusters = 0;
    const cudaError_t status =
        cudaOccupancyMaxActiveClusters(&clusters, linear_hopper_kernel<Shape<kSplit>>, &config);
    return status == cudaSuccess ? clusters : 0;
  }();
  return count;
}

// Launches kSplit blocks for each tile, if all run at once or must.
template <int kSplit>
bool launch_split(Stream stream, const HopperArgs& args, const Maps& maps) {
  using S = Shape<kSplit>;
  const unsigned tiles = blocks_for(args.m, kTile);
  if (kSplit > 1 && tiles > static_cast<unsigned>(clusters_at_once<kSplit>())) return false;
  launch_clusters(stream, tiles * kSplit, kSplit, kThreads, S::kBytes, linear_hopper_kernel<S>,
                  args, maps);
  return true;
}

// Whether every column of the block's belongs to one target.
bool in_tiles(const LoraArgs& args) {
  for (int i = 0; i < args.n_targets; ++i) {
    if (args.targets[i].column % kTile != 0 || args.targets[i].columns % kTile != 0) return false;
  }
  return true;
}

}  // namespace

bool takes_linear_hopper(const Stream& stream, const LinearArgs& args, const LoraArgs& lora) {
  return stream.hopper && args.rows > kGatedRows && args.rows <= kHopperRows &&
         args.x.dtype == DType::kBFloat16 && args.out.dtype == DType::kBFloat16 &&
         args.m % 4 == 0 && args.n >= 8 * kDepth && lora.n_segments <= kMostSegments &&
         blocks_for(args.m, kTile) <= static_cast<unsigned>(stream.multiprocessors) &&
         in_tiles(lora);
}

bool linear_hopper(Stream stream, const LinearArgs& args, const LoraArgs& lora) {
  if (!takes_linear_hopper(stream, args, lora)) return false;
  Maps maps;
  if (!make_matrix_map(maps.weight, args.weight, args.m, args.n, args.n, kTile) ||
      !make_matrix_map(maps.x, args.x.data, args.rows, args.n, args.x.stride, kRows)) {
    return false;
  }
  const HopperArgs hopper{.rows = static_cast<int>(args.rows),
                          .m = static_cast<int>(args.m),
                          .n = static_cast<int>(args.n),
                          .out = static_cast<bfloat16*>(args.out.data),
                          .out_stride = args.out.stride,
                          .lora = lora};
  // As many blocks as run at once.
  return launch_split<8>(stream, hopper, maps) || launch_split<4>(stream, hopper, maps) ||
         launch_split<2>(stream, hopper, maps) || launch_split<1>(stream, hopper, maps);
}

cudaError_t prepare_linear_hopper() {
  cudaError_t status = cudaSuccess;
  const auto prepare = [&]<int kSplit>(std::integral_constant<int, kSplit>) {
    if (status != cudaSuccess) return;
    status =
        cudaFuncSetAttribute(linear_hopper_kernel<Shape<kSplit>>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, Shape<kSplit>::kBytes);
  };
  prepare(std::integral_constant<int, 1>());
  prepare(std::integral_constant<int, 2>());
  prepare(std::integral_constant<int, 4>());
  prepare(std::integral_constant<int, 8>());
  return status;
}

}  // namespace lorax::cuda
