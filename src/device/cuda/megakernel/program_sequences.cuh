// What attention looks up of its sequences, kept in shared memory. It is the same in every layer,
// and looked up anew each time it would be a chain of trips to the L2 cache: length, page, keys.
#pragma once

#include "device/cuda/megakernel/program_blocks.cuh"

namespace lorax::cuda {

struct KnownSequences {
  // Where this was found; all null: nothing is known.
  const int32_t* lengths_at;
  const int32_t* positions_at;
  const int64_t* slots_at;
  int lengths[kProgramRows];
  int tokens[kProgramRows];  // the row of q; -1: the sequence has none in this step
  // If queries and keys are rotated on the way:
  int positions[kProgramRows];
  int64_t slots[kProgramRows];  // of the new key
};

// How the keys of sequences are cut, in layers of one window.
struct KnownCuts {
  const int32_t* lengths_at;  // null: nothing is known
  int window;
  int turns;                // parts of the sequence that has most
  int spans[kProgramRows];  // keys of a part
};

// The pages of the first part of a sequence that this block attends to.
struct KnownPages {
  static constexpr int kPages = 64;
  const int32_t* row;  // of the block table; null: nothing is known
  int first;           // column
  int32_t pages[kPages];
};

struct Known {
  KnownSequences sequences;
  KnownCuts cuts[2];    // of layers without and with a window
  KnownPages pages[2];  // likewise

  // By one thread.
  __device__ void forget() {
    sequences.lengths_at = nullptr;
    cuts[0].lengths_at = cuts[1].lengths_at = nullptr;
    pages[0].row = pages[1].row = nullptr;
  }
};

// Keys that the row of a sequence of this length sees.
__device__ inline int seen_keys(const AttentionArgs& args, int length) {
  return args.window > 0 ? min(length, args.window) : length;
}

// Called by all threads of the block.
__device__ inline void learn(KnownSequences& known, const ProgramAttention& attention) {
  const AttentionArgs& args = attention.args;
  const int32_t* positions = attention.rotates != 0 ? attention.rotary_store.positions : nullptr;
  const int64_t* slots = attention.rotates != 0 ? attention.rotary_store.slots : nullptr;
  if (known.lengths_at == args.kv_lengths && known.positions_at == positions &&
      known.slots_at == slots) {
    return;
  }
  sync_block();  // all have looked
  const int sequence = static_cast<int>(threadIdx.x);
  if (sequence < args.sequences) {
    const int token = args.cu_seqlens_q[sequence];
    const bool has_token = args.cu_seqlens_q[sequence + 1] - token == 1;
    known.lengths[sequence] = args.kv_lengths[sequence];
    known.tokens[sequence] = has_token ? token : -1;
    if (positions != nullptr && has_token) {
      known.positions[sequence] = positions[token];
      known.slots[sequence] = slots[token];
    }
  }
  if (threadIdx.x == 0) {
    known.lengths_at = args.kv_lengths;
    known.positions_at = positions;
    known.slots_at = slots;
  }
  sync_block();
}

// Keys of a part of a sequence of which the row sees `seen` keys.
__device__ inline int span_of(int seen, int units) {
  const int parts = parts_at_most(seen, units, static_cast<int>(gridDim.x));
  const int span = (seen + parts - 1) / parts;
  return max(kProgramKeys, (span + kProgramKeys - 1) / kProgramKeys * kProgramKeys);
}

// The same for how keys are cut; what is known of the sequences is up to date.
__device__ inline const KnownCuts& learn(Known& known, const ProgramAttention& attention) {
  const AttentionArgs& args = attention.args;
  KnownCuts& cuts = known.cuts[args.window > 0 ? 1 : 0];
  if (cuts.lengths_at == args.kv_lengths && cuts.window == args.window) return cuts;
  sync_block();  // all have looked
  const int sequence = static_cast<int>(threadIdx.x);
  const int units = units_of_part(args);
  if (sequence < args.sequences) {
    cuts.spans[sequence] = span_of(seen_keys(args, known.sequences.lengths[sequence]), units);
  }
  sync_block();
  if (threadIdx.x == 0) {
    cuts.lengths_at = args.kv_lengths;
    cuts.window = args.window;
    cuts.turns = 0;
    for (int i = 0; i < args.sequences; ++i) {
      const int seen = seen_keys(args, known.sequences.lengths[i]);
      cuts.turns = max(cuts.turns, (seen + cuts.spans[i] - 1) / cuts.spans[i]);
    }
  }
  sync_block();
  return cuts;
}

// The same for the pages in and behind column `first` of a row of the block table.
__device__ inline void learn(KnownPages& known, const int32_t* row, int first, int columns) {
  if (known.row == row && known.first == first) return;
  sync_block();
  const int at = static_cast<int>(threadIdx.x);
  if (at < KnownPages::kPages && first + at < columns) known.pages[at] = row[first + at];
  if (threadIdx.x == 0) {
    known.row = row;
    known.first = first;
  }
  sync_block();
}

// A row of the block table, of which some columns may be known.
struct PageRow {
  const int32_t* row;
  int log_block_size;
  const KnownPages* known;  // or null

  __device__ int slot_of(int position) const {
    const int column = position >> log_block_size;
    const unsigned at = known != nullptr ? static_cast<unsigned>(column - known->first) : ~0u;
    const int32_t page = at < KnownPages::kPages ? known->pages[at] : row[column];
    return (page << log_block_size) + position - (column << log_block_size);
  }
};

}  // namespace lorax::cuda
