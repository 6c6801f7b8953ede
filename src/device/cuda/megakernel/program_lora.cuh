// Low-rank parts of a program's products: warps of their own make A x while the product's weights
// come by, and B (A x) is added to the block's tiles when all their sums are there.
#pragma once

#include "device/cuda/megakernel/program_blocks.cuh"
#include "device/cuda/megakernel/program_ring.cuh"
#include "device/cuda/ops/launch.cuh"
#include "device/cuda/ptx/hopper.cuh"
#include "device/cuda/ptx/vector.cuh"

namespace lorax::cuda {

constexpr int kAdapterWarps = 2;
constexpr int kAdapterThreads = kAdapterWarps * 32;

// Of threads that carry out instructions and of those of the adapter warps.
constexpr int kAdapterBarrier = 2;  // the adapter warps alone
constexpr int kXBarrier = 3;        // x of the product is in shared memory
constexpr int kNotesBarrier = 4;    // notes and A x are there, x has been read
constexpr int kBothThreads = kProgramThreads + kAdapterThreads;

// Of a product, which rows of x have an adapter, and where its factors lie.
struct LoraNotes {
  LoraEntry entries[kProgramLoraRows][kMaxLoraTargets];  // of segments
  int begins[kProgramLoraRows + 1];                      // of segments, in `rows`
  int rows[kProgramLoraRows];
  int segment_of_row[kProgramLoraRows];  // of x; -1: it has no adapter
};

// A tile whose values wait for their low-rank parts.
struct PendingTile {
  int tile;
  TileValues values;
};

// In shared memory, of programs with low-rank parts.
struct LoraRoom {
  static constexpr int kRanks = 64;  // whose A x is kept here
  static constexpr int kPending = 16;
  LoraNotes notes[2];                                  // of products in turn
  float h[kProgramLoraRows][kMaxLoraTargets][kRanks];  // scale * (A x)
  PendingTile pending[kPending];
};

// The target that has a column of the output; -1: none.
__device__ inline int target_of(const ProgramLora& lora, int column) {
  for (int t = 0; t < lora.n_targets; ++t) {
    const LoraTarget& target = lora.targets[t];
    if (column >= target.column && column < target.column + target.columns) return t;
  }
  return -1;
}

// Part 0 of A x of a row of x and a target.
__device__ inline float* lora_h(const ProgramLora& lora, int row, int target) {
  return lora.h + static_cast<int64_t>((row * lora.n_targets + target) * lora.parts) * kMaxLoraRank;
}

// scale * (A x), where all blocks' parts are there.
__device__ inline float sum_of_parts(const ProgramLora& lora, const LoraEntry& entry, int row,
                                     int target, int rank) {
  const float* parts = lora_h(lora, row, target) + rank;
  float sum = 0.0f;
#pragma unroll 4
  for (int part = 0; part < lora.parts; ++part) sum += __ldcg(parts + part * kMaxLoraRank);
  return sum * entry.scale;
}

// What the adapter warps do: for each product with low-rank parts, its notes, this block's share of
// A x, and all of A x when the other blocks have theirs.
class AdapterWarps {
 public:
  // `thread`: of these warps.
  __device__ AdapterWarps(int thread, const bfloat16* staged, LoraRoom& room,
                          const Messenger& messenger)
      : thread_(thread), staged_(staged), room_(room), messenger_(messenger) {}

  __device__ void run(const ProgramArgs& args) {
#pragma unroll 1
    for (int i = 0; i < args.n_products; ++i) {
      const ProgramProduct& product = args.products[i];
      const ProgramLora& lora = product.lora;
      if (lora.n_targets == 0) continue;
      // What rows there are, launches before this one may write.
      if (!has_waited_) wait_for_previous();
      has_waited_ = true;
      LoraNotes& notes = room_.notes[lora.room];
      write(lora, notes);
      multiply(product, notes);
      sync();
      if (thread_ == 0) arrive(messenger_.done);
      wait(messenger_.go, static_cast<uint32_t>(lora.wait - 1) % 2);
      gather(lora, notes);
      __syncwarp();
      arrive_threads<kBothThreads>(kNotesBarrier);
    }
  }

 private:
  // Lanes come to a barrier together, wherever they parted before.
  __device__ static void sync() {
    __syncwarp();
    sync_threads<kAdapterThreads>(kAdapterBarrier);
  }

  __device__ void write(const ProgramLora& lora, LoraNotes& notes) const {
    if (thread_ < kProgramLoraRows) notes.segment_of_row[thread_] = -1;
    if (thread_ <= lora.n_segments) notes.begins[thread_] = lora.segments[thread_];
    sync();
    const int segment = thread_ / lora.n_targets;
    if (segment < lora.n_segments) {
      const int t = thread_ % lora.n_targets;
      LoraEntry& entry = notes.entries[segment][t];
      if (notes.begins[segment] < notes.begins[segment + 1]) {
        entry = lora.entries[lora.slots[segment] * lora.modules + lora.targets[t].module];
        fetch_b(entry, lora.targets[t].columns);
      } else {
        entry.rank = 0;
      }
    }
    if (thread_ < notes.begins[lora.n_segments]) {
      const int row = lora.rows[thread_];
      int of_row = 0;
      while (notes.begins[of_row + 1] <= thread_) ++of_row;
      notes.rows[thread_] = row;
      notes.segment_of_row[row] = of_row;
    }
    sync();
  }

  // This block's share of B into the L2 cache.
  __device__ static void fetch_b(const LoraEntry& entry, int64_t columns) {
    const int64_t bytes = lora_panels(columns) * entry.rank * kLoraPanel * sizeof(bfloat16);
    const int64_t share = (bytes / gridDim.x + 127) / 128 * 128;
    const int64_t begin = share * blockIdx.x;
    if (begin >= bytes) return;
    prefetch_to_l2(static_cast<const char*>(entry.b) + begin,
                   static_cast<uint32_t>(min(share, bytes - begin)));
  }

  // A rank of A and a part of its terms, for all rows of a segment.
  struct Unit {
    int pair;  // of segment and target
    int at;    // rank * parts + part

    __device__ bool is_one(const ProgramLora& lora) const {
      return pair < lora.n_segments * lora.n_targets;
    }
  };
  static constexpr int kVectors = kProgramLoraPart / 256;  // of eight elements, of a lane

  // The unit itself, or if the pair has none of that number, the one as many further on.
  __device__ static Unit find(const ProgramLora& lora, const LoraNotes& notes, Unit unit) {
    for (; unit.is_one(lora); ++unit.pair) {
      const int segment = unit.pair / lora.n_targets;
      const int count = notes.entries[segment][unit.pair % lora.n_targets].rank * lora.parts;
      if (unit.at < count) break;
      unit.at -= count;
    }
    return unit;
  }

  // This block's share of A x; the first factors are on their way before x is there.
  __device__ void multiply(const ProgramProduct& product, const LoraNotes& notes) const {
    const ProgramLora& lora = product.lora;
    const int blocks = static_cast<int>(gridDim.x);
    Unit unit = find(lora, notes, {0, thread_ / 32 * blocks + static_cast<int>(blockIdx.x)});
    uint4 factors[kVectors] = {};
    load(product, notes, unit, factors);
    __syncwarp();
    sync_threads<kBothThreads>(kXBarrier);
#pragma unroll 1
    while (unit.is_one(lora)) {
      multiply(product, notes, unit, factors);
      unit.at += kAdapterWarps * blocks;
      unit = find(lora, notes, unit);
      load(product, notes, unit, factors);
    }
  }

  __device__ void load(const ProgramProduct& product, const LoraNotes& notes, const Unit& unit,
                       uint4 (&factors)[kVectors]) const {
    const ProgramLora& lora = product.lora;
    if (!unit.is_one(lora)) return;
    const LoraEntry& entry = notes.entries[unit.pair / lora.n_targets][unit.pair % lora.n_targets];
    const bfloat16* a = static_cast<const bfloat16*>(entry.a) +
                        static_cast<int64_t>(unit.at / lora.parts) * product.n;
    const int first = first_of(lora, unit);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int at = first + v * 256;
      factors[v] =
          at < product.n ? __ldg(reinterpret_cast<const uint4*>(a + at)) : make_uint4(0, 0, 0, 0);
    }
  }

  // The lane's first term.
  __device__ int first_of(const ProgramLora& lora, const Unit& unit) const {
    return unit.at % lora.parts * kProgramLoraPart + thread_ % 32 * 8;
  }

  __device__ void multiply(const ProgramProduct& product, const LoraNotes& notes, const Unit& unit,
                           const uint4 (&factors)[kVectors]) const {
    const ProgramLora& lora = product.lora;
    const int segment = unit.pair / lora.n_targets;
    const int first = first_of(lora, unit);
#pragma unroll 1
    for (int i = notes.begins[segment]; i < notes.begins[segment + 1]; ++i) {
      const int row = notes.rows[i];
      uint4 x[kVectors];
      load_x(product, row, first, x);
      float sum = 0.0f;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) sum += dot(factors[v], x[v]);
#pragma unroll
      for (int offset = 16; offset > 0; offset /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
      }
      if (thread_ % 32 != 0) continue;
      __stcg(lora_h(lora, row, unit.pair % lora.n_targets) + unit.at % lora.parts * kMaxLoraRank +
                 unit.at / lora.parts,
             sum);
    }
  }

  // The lane's elements of a row of x: those of all parts, so not from shared memory if the block
  // has one of several there.
  __device__ void load_x(const ProgramProduct& product, int row, int first,
                         uint4 (&x)[kVectors]) const {
    const bool is_staged = product.parts == 1;
    const bfloat16* from = is_staged
                               ? staged_ + row * x_stride(product)
                               : static_cast<const bfloat16*>(product.x) + row * product.x_stride;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int at = first + v * 256;
      x[v] = make_uint4(0, 0, 0, 0);
      if (at >= product.n) continue;
      const uint4* place = reinterpret_cast<const uint4*>(from + at);
      x[v] = is_staged ? *place : __ldcg(place);
    }
  }

  // A x of all rows into shared memory, four numbers of a thread under way at a time.
  __device__ void gather(const ProgramLora& lora, const LoraNotes& notes) const {
    constexpr int kAtOnce = 4;
    int ranks = 1;
    for (int pair = 0; pair < lora.n_segments * lora.n_targets; ++pair) {
      ranks = max(ranks, notes.entries[pair / lora.n_targets][pair % lora.n_targets].rank);
    }
    ranks = min(ranks, LoraRoom::kRanks);
    const int count = notes.begins[lora.n_segments] * lora.n_targets * ranks;
#pragma unroll 1
    for (int first = thread_; first < count; first += kAtOnce * kAdapterThreads) {
      float sums[kAtOnce] = {};
      const float* parts[kAtOnce];
      float* to[kAtOnce];
      float scales[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int at = min(first + i * kAdapterThreads, count - 1);
        const int rank = at % ranks;
        const int target = at / ranks % lora.n_targets;
        const int row = notes.rows[at / ranks / lora.n_targets];
        const LoraEntry& entry = notes.entries[notes.segment_of_row[row]][target];
        parts[i] = rank < entry.rank ? lora_h(lora, row, target) + rank : nullptr;
        to[i] = &room_.h[row][target][rank];
        scales[i] = entry.scale;
      }
#pragma unroll 2
      for (int part = 0; part < lora.parts; ++part) {
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          if (parts[i] != nullptr) sums[i] += __ldcg(parts[i] + part * kMaxLoraRank);
        }
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) *to[i] = sums[i] * scales[i];
    }
  }

  __device__ static float dot(const uint4& a, const uint4& b) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 x = unpack<bfloat16>((&a.x)[i]);
      const float2 y = unpack<bfloat16>((&b.x)[i]);
      sum += x.x * y.x + x.y * y.y;
    }
    return sum;
  }

  int thread_;
  const bfloat16* staged_;
  LoraRoom& room_;
  const Messenger& messenger_;
  bool has_waited_ = false;
};

// B's numbers of a rank and of eight neighbouring columns of a target, from `column` on; zeros
// beyond the last rank, and without an entry.
__device__ inline uint4 factors_of(const LoraEntry* entry, int rank, int column) {
  if (entry == nullptr || rank >= entry->rank) return make_uint4(0, 0, 0, 0);
  const bfloat16* b = static_cast<const bfloat16*>(entry->b) +
                      (column / kLoraPanel * entry->rank + rank) * kLoraPanel + column % kLoraPanel;
  return __ldg(reinterpret_cast<const uint4*>(b));
}

// scale * B (A x) of these columns for one row of x, by a warp; `first` are the factors of the
// ranks up to 32, one of a lane. Column i in lanes 4 i to 4 i + 3.
__device__ inline float low_rank_sum(const ProgramLora& lora, const LoraRoom& room,
                                     const LoraEntry& entry, int row, int target, int column,
                                     const uint4& first) {
  float sums[8] = {};
#pragma unroll 1
  for (int rank = static_cast<int>(threadIdx.x) % 32; rank < entry.rank; rank += 32) {
    const uint4 factors = rank < 32 ? first : factors_of(&entry, rank, column);
    const float h = rank < LoraRoom::kRanks ? room.h[row][target][rank]
                                            : sum_of_parts(lora, entry, row, target, rank);
    float b[8];
    unpack_eight(factors, b);
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i] += h * b[i];
  }
  __syncwarp();
  return sum_of_eight(sums);
}

constexpr int kRowsAtOnce = 4;  // of x, whose factors are under way

// Adds the low-rank parts to a half of a tile's values, for kRowsAtOnce rows from `first` on, by a
// warp: gain * (value + scale * B (A x) + bias), or gain * value of other parts than the first.
__device__ inline void finish_pending(const ProgramProduct& product, const LoraRoom& room,
                                      PendingTile& pending, bool is_first_part, int half,
                                      int first) {
  const ProgramLora& lora = product.lora;
  const LoraNotes& notes = room.notes[lora.room];
  const int lane = threadIdx.x % 32;
  const int of_output = product.is_gated != 0 ? pending.tile * 8 + half * (product.m / 2)
                                              : pending.tile * kProgramTile + half * 8;
  const int target = target_of(lora, of_output);
  if (target < 0) return;
  const int column = of_output - static_cast<int>(lora.targets[target].column);
  const LoraEntry* entries[kRowsAtOnce];
  uint4 factors[kRowsAtOnce];
#pragma unroll
  for (int i = 0; i < kRowsAtOnce; ++i) {
    const int segment = first + i < product.rows ? notes.segment_of_row[first + i] : -1;
    entries[i] = segment >= 0 ? &notes.entries[segment][target] : nullptr;
    factors[i] = factors_of(entries[i], lane, column);
  }
#pragma unroll
  for (int i = 0; i < kRowsAtOnce; ++i) {
    if (entries[i] == nullptr || entries[i]->rank == 0) continue;
    const LoraEntry& entry = *entries[i];
    const int row = first + i;
    const float more =
        is_first_part ? low_rank_sum(lora, room, entry, row, target, column, factors[i]) : 0.0f;
    if (lane % 4 != 0) continue;
    float& value = value_at(&pending.values, half * 8 + lane / 4, row);
    float sum = value + more;
    const bool has_bias = is_first_part && entry.bias != nullptr;
    if (has_bias) sum += entry.bias[column + lane / 4];
    value = entry.gain != nullptr ? sum * entry.gain[column + lane / 4] : sum;
  }
}

// The low-rank parts of a product as those see it who carry it out: all threads make it when x is
// in shared memory. Of a product without any it does nothing.
class LowRank {
 public:
  __device__ LowRank(const ProgramProduct& product, int part, LoraRoom* room)
      : product_(product), is_first_part_(part == 0), room_(room) {
    if (has_any()) arrive_threads<kBothThreads>(kXBarrier);
  }

  __device__ bool has_any() const { return product_.lora.n_targets != 0; }

  // Waits for notes and A x, by all threads, once; finish() does that.
  __device__ void meet() {
    if (has_any() && !has_met_) sync_threads<kBothThreads>(kNotesBarrier);
    has_met_ = true;
  }

  // Where the next tile's values go.
  __device__ TileValues& add_tile(int tile) {
    PendingTile& pending = room_->pending[count_++];
    if (threadIdx.x == 0) pending.tile = tile;
    return pending.values;
  }
  // Two tiles come at a time.
  __device__ bool is_full() const { return count_ + 2 > LoraRoom::kPending; }

  // Hands the tiles with their low-rank parts to `leave`, each by a warp; by all threads.
  template <typename Leave>
  __device__ void finish(const Leave& leave) {
    meet();
    sync_block();  // all values are there
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int parts = 2 * ((product_.rows + kRowsAtOnce - 1) / kRowsAtOnce);  // of a tile
#pragma unroll 1
    for (int i = warp; i < count_ * parts; i += kProgramWarps) {
      const int part = i % parts;
      finish_pending(product_, *room_, room_->pending[i / parts], is_first_part_, part % 2,
                     part / 2 * kRowsAtOnce);
    }
    sync_block();
#pragma unroll 1
    for (int i = warp; i < count_; i += kProgramWarps) leave(room_->pending[i]);
    sync_block();  // the room is free
    count_ = 0;
  }

 private:
  const ProgramProduct& product_;
  bool is_first_part_;
  LoraRoom* room_;  // null in programs without low-rank parts
  int count_ = 0;
  bool has_met_ = false;
};

}  // namespace lorax::cuda
