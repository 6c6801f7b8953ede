// What the kernels of low-rank products share: tiles of rows of one segment, and the h that passes
// from the first product to the second.
#pragma once

#include "device/cuda/ops/kernels.h"
#include "device/cuda/ptx/vector.cuh"

namespace lorax::cuda {

// Neighbours in LoraArgs::rows that have one adapter.
struct LoraTile {
  int begin = 0;
  int count = 0;  // 0: there is no such tile
  int slot = 0;
};

// Tile number `tile` when the rows [first, last) of each segment are cut into tiles of kRows. Ranks
// and lengths of segments are known to the device alone, so grids are as large as the shapes
// allow and blocks without a tile leave. All lanes of a warp must take part.
template <int kRows>
__device__ LoraTile find_tile(const LoraArgs& args, int tile) {
  constexpr unsigned kAll = 0xffffffffu;
  const int lane = threadIdx.x % 32;
  for (int base = 0; base < args.n_segments; base += 32) {
    const int segment = base + lane;
    int begin = 0;
    int end = 0;
    if (segment < args.n_segments) {
      begin = max(args.segments[segment], args.first);
      end = min(args.segments[segment + 1], args.last);
    }
    const int tiles = end > begin ? (end - begin + kRows - 1) / kRows : 0;
    int through = tiles;  // of this segment and those before it
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int before = __shfl_up_sync(kAll, through, distance);
      if (lane >= distance) through += before;
    }
    const unsigned owners = __ballot_sync(kAll, through > tile);
    if (owners != 0) {
      const int owner = __ffs(owners) - 1;
      const int index = tile - __shfl_sync(kAll, through - tiles, owner);
      LoraTile found;
      found.begin = __shfl_sync(kAll, begin, owner) + index * kRows;
      found.count = min(kRows, __shfl_sync(kAll, end, owner) - found.begin);
      found.slot = args.slots[base + owner];
      return found;
    }
    tile -= __shfl_sync(kAll, through, 31);
  }
  return {};
}

// Most tiles of `rows` rows that the rows of a launch can come in.
inline unsigned most_tiles(const LoraArgs& args, int64_t rows) {
  const int64_t all = args.last - args.first;
  const int64_t segments = all < args.n_segments ? all : args.n_segments;
  return static_cast<unsigned>((all + segments * (rows - 1)) / rows);
}

__device__ inline const LoraEntry& entry_of(const LoraArgs& args, int slot, int target) {
  return args.entries[slot * args.modules + args.targets[target].module];
}

// h of row `row` (an index into LoraArgs::rows) and one target, part `part`: as many elements as
// the rank, and if it is odd one more, of no meaning, because they are read in pairs. The scratch
// it lies in has far fewer than 2^31 elements.
__device__ inline float* h_row(const LoraArgs& args, int part, int target, int row) {
  const int rows = args.last - args.first;
  return args.h + ((part * args.n_targets + target) * rows + row - args.first) * kMaxLoraRank;
}

// Elements k and k + 1 of what B is multiplied by, 0 beyond the rank; k is even. Without kLookUp:
// scale * (A x), whose parts are added in their order. Rounded here, whatever it is used for: the
// compiler must not fuse the product with a caller's sum.
template <typename T, bool kLookUp>
__device__ float2 load_h(const LoraArgs& args, const LoraEntry& entry, int target, int row,
                         int rank, int k) {
  float2 h = make_float2(0.0f, 0.0f);
  if (k >= rank) return h;
  if constexpr (kLookUp) {
    const T* a = static_cast<const T*>(entry.a) + int64_t{args.ids[args.rows[row]]} * rank + k;
    const float factor = args.multiplier * entry.scale;
    h.x = __fmul_rn(to_float(a[0]), factor);
    if (k + 1 < rank) h.y = __fmul_rn(to_float(a[1]), factor);
  } else {
    // All are on their way before the first is added.
    float2 parts[kMaxLoraParts];
#pragma unroll
    for (int part = 0; part < kMaxLoraParts; ++part) {
      parts[part] = part < args.parts
                        ? *reinterpret_cast<const float2*>(h_row(args, part, target, row) + k)
                        : make_float2(0.0f, 0.0f);
    }
#pragma unroll
    for (const float2& part : parts) {
      h.x += part.x;
      h.y += part.y;
    }
    h.x = __fmul_rn(h.x, entry.scale);
    h.y = k + 1 < rank ? __fmul_rn(h.y, entry.scale) : 0.0f;
  }
  return h;
}

}  // namespace lorax::cuda
