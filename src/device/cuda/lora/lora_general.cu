// Low-rank products of any dtype, width and alignment, on the plain units: of float32 models, and
// the first half of products whose x cannot be read 16 bytes at a time. A row's sums do not depend
// on other rows.
#include "device/cuda/lora/lora_tile.cuh"

namespace lorax::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kRows = 8;  // that share what is read of A or B
constexpr int64_t kMostGroups = 16;
constexpr int kPanels = kThreads / kLoraPanel;  // of a block

// A warp per rank: its lanes take turns along x and meet at the end. blockIdx: a tile of rows,
// ranks in steps, a target.
template <typename T>
__global__ void __launch_bounds__(kThreads) shrink_kernel(const __grid_constant__ LoraArgs args) {
  const LoraTile tile = find_tile<kRows>(args, static_cast<int>(blockIdx.x));
  if (tile.count == 0) return;
  const int lane = threadIdx.x % 32;
  const int target = static_cast<int>(blockIdx.z);
  const LoraEntry& entry = entry_of(args, tile.slot, target);
  const T* x[kRows];
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    const int index = tile.begin + min(row, tile.count - 1);
    x[row] = static_cast<const T*>(args.x.data) + args.rows[index] * args.x.stride;
  }
  for (int k = blockIdx.y * kWarps + threadIdx.x / 32; k < entry.rank; k += gridDim.y * kWarps) {
    const T* a = static_cast<const T*>(entry.a) + k * args.n;
    float sums[kRows] = {};
    for (int64_t i = lane; i < args.n; i += 32) {
      const float factor = to_float(a[i]);
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        if (row < tile.count) sums[row] += factor * to_float(x[row][i]);
      }
    }
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      float sum = sums[row];
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
      }
      if (lane > 0 || row >= tile.count) continue;
      float* h = h_row(args, 0, target, tile.begin + row);
      h[k] = sum;
      if (k % 2 == 0 && k + 1 == entry.rank) h[k + 1] = 0.0f;
    }
  }
}

// A thread per column. blockIdx: a tile of rows, panels, a target.
template <bool kLookUp>
__global__ void __launch_bounds__(kThreads)
    expand_float32_kernel(const __grid_constant__ LoraArgs args) {
  const LoraTile tile = find_tile<kRows>(args, static_cast<int>(blockIdx.x));
  if (tile.count == 0) return;
  const int target = static_cast<int>(blockIdx.z);
  const LoraEntry entry = entry_of(args, tile.slot, target);
  const int64_t panel = int64_t{blockIdx.y} * kPanels + threadIdx.x / kLoraPanel;
  const int within = threadIdx.x % kLoraPanel;
  const int64_t column = panel * kLoraPanel + within;
  if (entry.rank == 0 || column >= args.targets[target].columns) return;
  const float* b = static_cast<const float*>(entry.b) + panel * entry.rank * kLoraPanel + within;
  float sums[kRows] = {};
  for (int k = 0; k < entry.rank; k += 2) {
    const float first = b[k * kLoraPanel];
    const float second = k + 1 < entry.rank ? b[(k + 1) * kLoraPanel] : 0.0f;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      if (row >= tile.count) break;
      const float2 h = load_h<float, kLookUp>(args, entry, target, tile.begin + row, entry.rank, k);
      sums[row] += h.x * first;
      sums[row] += h.y * second;
    }
  }
  const float bias = entry.bias != nullptr ? entry.bias[column] : 0.0f;
  const float gain = entry.gain != nullptr ? entry.gain[column] : 1.0f;
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    if (row >= tile.count) break;
    float* out = static_cast<float*>(args.out.data) +
                 args.rows[tile.begin + row] * args.out.stride + args.targets[target].column +
                 column;
    *out = (*out + sums[row] + bias) * gain;
  }
}

}  // namespace

void lora_shrink_general(cudaStream_t stream, const LoraArgs& args) {
  const unsigned tiles = most_tiles(args, kRows);
  const dim3 grid(tiles, kMostGroups, static_cast<unsigned>(args.n_targets));
  visit_model_dtype(args.x.dtype, [&]<typename T>(std::type_identity<T>) {
    shrink_kernel<T><<<grid, kThreads, 0, stream>>>(args);
  });
}

void lora_expand_float32(cudaStream_t stream, const LoraArgs& args) {
  int64_t columns = 0;
  for (int i = 0; i < args.n_targets; ++i) {
    if (args.targets[i].columns > columns) columns = args.targets[i].columns;
  }
  const dim3 grid(most_tiles(args, kRows), blocks_for(lora_panels(columns), kPanels),
                  static_cast<unsigned>(args.n_targets));
  if (args.ids != nullptr) {
    expand_float32_kernel<true><<<grid, kThreads, 0, stream>>>(args);
  } else {
    expand_float32_kernel<false><<<grid, kThreads, 0, stream>>>(args);
  }
}

}  // namespace lorax::cuda
