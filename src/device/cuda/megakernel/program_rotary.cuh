// rotary_store of a program, where attention does not do it on the way.
#pragma once

#include "device/cuda/megakernel/program_blocks.cuh"
#include "device/cuda/ptx/vector.cuh"
#include "device/cuda/tile/rotate.cuh"

namespace lorax::cuda {

// Four elements of each half of a head a lane; heads spread over the blocks.
__device__ inline void run_rotary_store(const RotaryStoreArgs& args) {
  const int half = static_cast<int>(args.head_size) / 2;
  const int row_heads = static_cast<int>(args.heads + 2 * args.kv_heads);
  const int units = static_cast<int>(args.rows) * row_heads;
  const int kv_heads = static_cast<int>(args.kv_heads);
  const int warp = threadIdx.x / 32;
  const int stride = static_cast<int>(gridDim.x) * kProgramWarps;
  for (int unit = warp * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x); unit < units;
       unit += stride) {
    const int row = unit / row_heads;
    const int head = unit % row_heads;
    const int kv_head = head - static_cast<int>(args.heads);  // negative: a query's
    const bool is_value = kv_head >= kv_heads;
    const Rows& rows = kv_head < 0 ? args.q : is_value ? args.v : args.k;
    const int head_of_rows = kv_head < 0 ? head : is_value ? kv_head - kv_heads : kv_head;
    bfloat16* from =
        static_cast<bfloat16*>(rows.data) + row * rows.stride + head_of_rows * 2 * half;
    bfloat16* to = from;
    if (kv_head >= 0) {
      const int64_t slot = args.slots[row];
      if (slot < 0) continue;
      to = static_cast<bfloat16*>(is_value ? args.value : args.key) +
           (slot * kv_heads + head_of_rows) * 2 * half;
    }
    for (int i = static_cast<int>(threadIdx.x) % 32 * 4; i < half; i += 128) {
      float x1[4], x2[4], c[4], s[4], y1[4], y2[4];
      load_fresh(from + i, x1);
      load_fresh(from + half + i, x2);
      if (is_value) {
        store(x1, to + i);
        store(x2, to + half + i);
        continue;
      }
      const int64_t angle = int64_t{args.positions[row]} * half + i;
      load(args.cos + angle, c);
      load(args.sin + angle, s);
      rotate<4>(x1, x2, c, s, y1, y2);
      store(y1, to + i);
      store(y2, to + half + i);
    }
  }
}

}  // namespace lorax::cuda
