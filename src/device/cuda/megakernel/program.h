// A step of few rows as one launch, on Hopper.
//
// Decode of few rows is bound by reading the weights. Launched one by one, its operations leave the
// memory idle between them: each waits until the one before has ended on every multiprocessor, and
// only then are its first weights on their way. So the operations that a graph keeps (see
// CudaDevice::capture) are compiled into a program of instructions, which one kernel carries out
// with one block on each multiprocessor. Which weights come next does not depend on any result: one
// thread of each block has them copied to shared memory up to some 190 KB ahead, through the ends
// of instructions, where the blocks wait for each other.
//
// What an operation of a graph writes for the next one alone may stay unwritten: queries are not
// rotated in place where attention follows, but on their way into it, and a product whose terms are
// cut into parts leaves its sums to the norm that follows. Rotation and the store of keys and
// values then belong to attention: each row is that of its sequence's last token, and the slot is
// that token's, or negative if the sequence has none.
#pragma once

#include <cuda.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "device/cuda/ops/operation.h"

namespace lorax::cuda {

// ---- What the kernel reads ----------------------------------------------------------------------

// A product is cut into tiles of 16 rows of the weight, and these into rounds (k-tiles) of 512
// elements, 64 of each warp. Blocks take whole tiles where they share them out evenly. Otherwise
// the terms are cut into parts (split-K): each block has one part, and takes tiles of it alone. So
// it needs x of that part only, which is how the MLP's width fits into shared memory.
inline constexpr int kProgramTile = 16;
inline constexpr int kProgramRound = 512;
inline constexpr int kProgramBoxRows = 8;            // of a tile that are copied at a time
inline constexpr int64_t kProgramRows = 16;          // of x
inline constexpr int64_t kProgramLoraRows = 8;       // of a product with low-rank parts
inline constexpr int kProgramNormWidth = 5120;       // at most
inline constexpr int kProgramLoraPart = 1024;        // terms of A x that a warp sums at a time
inline constexpr int kProgramXPad = 32;              // elements between rows of x in shared memory
inline constexpr int kProgramStageBytes = 18 << 10;  // of shared memory that attention needs there

// The low-rank parts of a product's rows that have an adapter. A x of a row of x and a target lies
// in `parts` parts, of kProgramLoraPart terms each, at [((row * n_targets + target) * parts + part)
// * kMaxLoraRank].
struct ProgramLora {
  LoraTarget targets[kMaxLoraTargets];
  int n_targets;  // 0: there are none
  int n_segments;
  int parts;
  int room;             // 0 or 1 in turn
  int wait;             // for all blocks' A x: its number, as of an instruction's
  const int32_t* rows;  // LoraRows
  const int32_t* segments;
  const int32_t* slots;
  const LoraEntry* entries;
  int64_t modules;
  float* h;
};

struct alignas(16) ProgramProduct {
  const void* x;
  int64_t x_stride;
  const void* weight;
  void* out;
  int64_t out_stride;
  int rows;
  int m;
  int n;
  int tiles;
  int steps;        // rounds of a tile
  int parts;        // that the terms are cut into
  int part_steps;   // rounds of a tile of a part; the last part may have fewer
  int part_blocks;  // places p * part_blocks + [0, part_blocks) have part p, the rest none
  int rotation;     // block b has the place (b + rotation) % blocks
  int claims;    // of ProgramSync, the first of this product's, one a part; -1: tiles are dealt out
  int in_place;  // 1: x is in shared memory already
  int is_gated;  // out [rows, m / 2] = gelu_tanh(first half) * second half
  int is_float32;  // out
  float* sums;     // of the parts, [parts, rows, m], which out's readers add up; null: one part
  ProgramLora lora;
};

// to = from + norm(x), out = norm(to); without x: to = from. Every block does all rows, leaves
// `out` in its shared memory for the product that follows, and writes a part of it; or each block
// does some rows alone.
struct ProgramNorm {
  const void* x;
  int64_t x_stride;
  const float* sums;  // not null: of x, see ProgramProduct
  int parts;          // of them
  const float* weight;
  const float* from;
  int64_t from_stride;
  float* to;
  int64_t to_stride;
  const float* next_weight;
  void* out;
  int64_t out_stride;
  int rows;
  int width;
  int part;  // elements that a block writes of a shared row, a multiple of 4
  float eps;
  float next_eps;
  int everywhere;
};

// out = the sums of a product's parts, where no norm adds them up.
struct ProgramSum {
  const float* sums;  // [parts, rows, m]
  int parts;
  int rows;
  int m;
  int is_float32;
  void* out;
  int64_t out_stride;
};

// Keys of a sequence are cut into at most `splits` parts, whose sums lie in scratch until they are
// merged: of part s of query head h of sequence b at [(b * heads + h) * splits + s]. There are as
// many parts as keep all blocks busy for as few turns as parts of at most kProgramSpan keys allow,
// if all sequences were of that length.
inline constexpr int kProgramSpan = 512;
inline constexpr int kProgramKeys = 32;    // that a block takes at a time
inline constexpr int kProgramMerged = 32;  // parts that are merged at a time
struct ProgramAttention {
  AttentionArgs args;
  RotaryStoreArgs rotary_store;  // of the same rows, if `rotates`
  int rotates;
  int log_block_size;
  int splits;
  float* values;  // [.., d]
  float* tops;
  float* sums;
};

// Of a part of every sequence, what a block takes at a time: two query heads of one key/value head.
constexpr int units_of_part(const AttentionArgs& args) {
  return args.sequences * args.kv_heads * ((args.heads / args.kv_heads + 1) / 2);
}

// Of a sequence whose row sees `keys` keys.
constexpr int parts_at_most(int64_t keys, int units, int blocks) {
  const int64_t least = (keys + kProgramSpan - 1) / kProgramSpan;
  const int64_t turns = (least * units + blocks - 1) / blocks;
  const int64_t most = (keys + kProgramKeys - 1) / kProgramKeys;
  const int64_t parts = std::min<int64_t>(turns * blocks / units, turns * kProgramMerged);
  return static_cast<int>(parts < 1 ? 1 : parts < most ? parts : most);
}

struct alignas(16) Instruction {
  enum Kind : int { kProduct, kSum, kNorm, kRotaryStore, kAttention, kMerge };
  int kind;
  int wait;  // for all blocks to have done what comes before: its number, from 1; 0: none
  union {
    ProgramProduct product;
    ProgramSum sum;
    ProgramNorm norm;
    RotaryStoreArgs rotary_store;
    ProgramAttention attention;
  };

  Instruction() : kind(kProduct), wait(0), product{} {}
};

// Zeros before and after each launch.
struct ProgramSync {
  static constexpr int kMaxClaims = 4096;
  uint32_t arrivals;
  uint32_t exits;
  uint32_t claims[kMaxClaims];  // tiles that blocks have come for
};

static_assert(sizeof(Instruction) % 16 == 0 && sizeof(ProgramProduct) % 16 == 0);

// Handed to the kernel. Tables and scratch are on the device.
struct ProgramArgs {
  const CUtensorMap* maps;  // of the products' weights, see make_panel_map()
  const Instruction* instructions;
  const ProgramProduct* products;
  int n_instructions;
  int n_products;
  int n_waits;
  int n_claims;
  int has_lora;
  int stage_bytes;  // of shared memory for x, or for attention
  int ring_depth;
  ProgramSync* sync;
};

// ---- Making one ---------------------------------------------------------------------------------

struct ProgramLimits {
  int blocks = 0;           // multiprocessors
  size_t shared_bytes = 0;  // of a block at most
  void* scratch = nullptr;  // on the device, 16-byte aligned
  size_t scratch_bytes = 0;
  ProgramSync* sync = nullptr;
};

struct Program {
  std::vector<Instruction> instructions;
  std::vector<ProgramProduct> products;
  int stage_bytes = 0;
  int waits = 0;  // of instructions and low-rank parts
  int claims = 0;
  bool has_lora = false;
  // A residual that ended up in scratch: to be copied back behind the launch.
  struct CopyBack {
    float* to = nullptr;
    const float* from = nullptr;
    size_t bytes = 0;
  };
  std::vector<CopyBack> copies;

  // The device's tables: maps of the products' weights, instructions, products. At a multiple of
  // kTableAlignment.
  static constexpr size_t kTableAlignment = 128;
  size_t table_bytes() const;
  std::vector<std::byte> table(std::span<const CUtensorMap> maps) const;
};

// Whether an operation can be part of a program.
bool is_programmable(const Operation& operation, const ProgramLimits& limits);

// Of operations that are all programmable.
Program compile(std::span<const Operation> operations, const ProgramLimits& limits);

// Whether a block's shared memory has room for it.
bool can_launch(const Program& program, const ProgramLimits& limits);

// Launches a program whose tables will lie at `table` when it starts.
void launch_program(Stream stream, const Program& program, const void* table,
                    const ProgramLimits& limits);

cudaError_t prepare_programs(size_t shared_bytes);

}  // namespace lorax::cuda
