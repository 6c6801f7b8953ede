// out = gain * (out + h B + bias) of 16-bit factors: the second half of a low-rank product.
//
// Products on tensor cores as in lora_panel.cuh: out is read and written in whole sectors. No
// shared memory.
//   blockIdx.x  panels, in steps of gridDim.x
//   blockIdx.y  a target
//   blockIdx.z  a tile of rows of one segment; those that exist come first
#include "device/cuda/lora/lora_panel.cuh"
#include "device/cuda/lora/lora_tile.cuh"
#include "device/cuda/ops/launch.cuh"
#include "device/cuda/ptx/mma.cuh"

namespace lorax::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kGroup = kPanelGroup;
constexpr int64_t kManyBlocks = 2048;
constexpr int64_t kMostPanels = 4;  // of a warp, if there are blocks enough

// One row and eight columns, `inside` of which belong to the module.
template <typename Out>
__device__ void finish(const LoraEntry& entry, const float (&sums)[kGroup], int64_t column,
                       int64_t inside, Out* out) {
  constexpr int kWidth = 16 / sizeof(Out);
  const float* bias = entry.bias;
  const float* gain = entry.gain;
  if (inside >= kGroup && reinterpret_cast<uintptr_t>(out) % 16 == 0) {
#pragma unroll
    for (int first = 0; first < kGroup; first += kWidth) {
      float values[kWidth];
      load(out + first, values);
#pragma unroll
      for (int i = 0; i < kWidth; i += 4) {
        float more[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) values[i + j] += sums[first + i + j];
        if (bias != nullptr) {
          load(bias + column + first + i, more);
#pragma unroll
          for (int j = 0; j < 4; ++j) values[i + j] += more[j];
        }
        if (gain != nullptr) {
          load(gain + column + first + i, more);
#pragma unroll
          for (int j = 0; j < 4; ++j) values[i + j] *= more[j];
        }
      }
      store(values, out + first);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    if (i >= inside) break;
    float value = to_float(out[i]) + sums[i];
    if (bias != nullptr) value += bias[column + i];
    if (gain != nullptr) value *= gain[column + i];
    out[i] = from_float<Out>(value);
  }
}

template <int kRowWarps, typename T, typename Out, bool kLookUp>
__global__ void __launch_bounds__(kWarps * 32, 5)
    expand_kernel(const __grid_constant__ LoraArgs args) {
  start_next();
  constexpr int kColumnWarps = kWarps / kRowWarps;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;

  const LoraTile tile = find_tile<kRowWarps * 16>(args, static_cast<int>(blockIdx.z));
  const int first_row = warp % kRowWarps * 16;
  const int target = static_cast<int>(blockIdx.y);
  const int64_t columns = args.targets[target].columns;
  const int64_t first_panel = blockIdx.x * kColumnWarps + warp / kRowWarps;
  if (tile.count > 0 && lane == 0 && first_panel * kLoraPanel < columns) {
    const LoraEntry& entry = entry_of(args, tile.slot, target);
    const T* panel = static_cast<const T*>(entry.b) + first_panel * entry.rank * kLoraPanel;
    if (entry.rank > 0) prefetch_to_l2(panel, entry.rank * (kLoraPanel * sizeof(T)));
  }
  wait_for_previous();
  if (first_row >= tile.count) return;
  const LoraEntry& entry = entry_of(args, tile.slot, target);
  const int rank = entry.rank;
  if (rank == 0) return;

  int rows[2];  // of LoraArgs::rows; -1: none
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + half * 8 + g;
    rows[half] = row < tile.count ? tile.begin + row : -1;
  }
  // This lane's eight columns of a panel's row.
  const T* b = static_cast<const T*>(entry.b) + panel_column(g);

  HOperand<T> operand;  // where 16 ranks are all, for every panel
  for (int64_t panel = first_panel; panel * kLoraPanel < columns;
       panel += gridDim.x * kColumnWarps) {
    const T* panel_b = b + panel * rank * kLoraPanel;
    float c[kGroup][4] = {};
    for (int k = 0; k < rank; k += 16) {
      uint4 factors[4];
      load_panel(panel_b, k, rank, factors);
      if (rank > 16 || panel == first_panel) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int half = i % 2;
          const float2 h = rows[half] >= 0 ? load_h<T, kLookUp>(args, entry, target, rows[half],
                                                                rank, k + i / 2 * 8 + 2 * t)
                                           : make_float2(0.0f, 0.0f);
          operand.set(i, h);
        }
      }
      __syncwarp();  // lanes part above where some have no rows or ranks
      multiply_panel(c, operand, factors);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (rows[half] < 0) continue;
      Out* out = static_cast<Out*>(args.out.data) + args.rows[rows[half]] * args.out.stride +
                 args.targets[target].column;
#pragma unroll
      for (int group = 0; group < 2; ++group) {
        const int64_t column = panel * kLoraPanel + (group * 4 + t) * kGroup;
        float sums[kGroup];
#pragma unroll
        for (int j = 0; j < kGroup; ++j) sums[j] = c[j][half * 2 + group];
        finish(entry, sums, column, columns - column, out + column);
      }
    }
  }
}

template <int kRowWarps, typename T, typename Out, bool kLookUp>
void expand(Stream stream, const LoraArgs& args) {
  constexpr int64_t kColumnWarps = kWarps / kRowWarps;
  int64_t columns = 0;
  for (int i = 0; i < args.n_targets; ++i) {
    if (args.targets[i].columns > columns) columns = args.targets[i].columns;
  }
  const unsigned tiles = most_tiles(args, kRowWarps * 16);
  const int64_t all = (lora_panels(columns) + kColumnWarps - 1) / kColumnWarps;
  // A block's beginning, a chain of look-ups, is paid once for several panels.
  int64_t steps = int64_t{tiles} * all * args.n_targets / kManyBlocks;
  steps = steps < 1 ? 1 : steps > kMostPanels ? kMostPanels : steps;
  const dim3 grid(blocks_for(all, steps), static_cast<unsigned>(args.n_targets), tiles);
  launch(stream, grid, kWarps * 32, 0, expand_kernel<kRowWarps, T, Out, kLookUp>, args);
}

}  // namespace

void lora_expand(Stream stream, const LoraArgs& args) {
  // Few rows of an adapter: the warps of a block take neighbouring panels. Many: they share one.
  const bool many = int64_t{args.last} - args.first >= int64_t{32} * args.n_segments;
  visit_16_bit_dtype(args.x.dtype, [&]<typename T>(std::type_identity<T>) {
    if (args.ids != nullptr) {  // embeddings are float32
      many ? expand<kWarps, T, float, true>(stream, args) : expand<1, T, float, true>(stream, args);
    } else if (args.out.dtype == DType::kFloat32) {
      many ? expand<kWarps, T, float, false>(stream, args)
           : expand<1, T, float, false>(stream, args);
    } else {
      many ? expand<kWarps, T, T, false>(stream, args) : expand<1, T, T, false>(stream, args);
    }
  });
}

}  // namespace lorax::cuda
