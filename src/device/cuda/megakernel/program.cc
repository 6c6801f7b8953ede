#include "device/cuda/megakernel/program.h"

#include <algorithm>
#include <bit>
#include <map>

#include "base/check.h"

namespace lorax::cuda {
namespace {

constexpr int64_t kRowsEverywhere = 2;   // norms of so few rows are done by every block
constexpr double kMaxUnevenness = 1.05;  // of the largest share, over the mean
constexpr int kMaxParts = 12;            // of a product's terms
constexpr int kMinClaimedSteps = 4;  // of tiles that blocks come for; shorter ones are dealt out
constexpr size_t kMaxStageBytes = size_t{120} << 10;

bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

// Rows that can be read 16 bytes at a time.
bool is_aligned(const Rows& rows) {
  return is_aligned(rows.data) && rows.stride * static_cast<int64_t>(size_of(rows.dtype)) % 16 == 0;
}

bool is_bfloat16(const Rows& rows) { return rows.dtype == DType::kBFloat16 && is_aligned(rows); }

int stage_bytes(int64_t rows, int64_t n) {
  return static_cast<int>(rows * (n + kProgramXPad) * static_cast<int64_t>(sizeof(uint16_t)));
}

// How a product is shared out: see ProgramProduct.
struct Cut {
  int parts;
  int part_steps;
  int part_blocks;

  int staged(int64_t n) const {
    return parts == 1 ? static_cast<int>(n) : part_steps * kProgramRound;
  }
};

int div_up(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

// The same for any number of rows, so that the order of the sums is. Whole tiles, if blocks share
// them out evenly or must have them; else the cut that gives no block more rounds than it must.
Cut cut_of(int64_t m, int64_t n, bool is_whole, int blocks) {
  const int tiles = div_up(m, kProgramTile);
  const int steps = div_up(n, kProgramRound);
  const Cut whole{1, steps, blocks};
  if (is_whole || div_up(tiles, blocks) * blocks <= tiles * kMaxUnevenness) return whole;
  Cut best = whole;
  int least = -1;
  for (int wanted = 1; wanted <= std::min({kMaxParts, steps, blocks}); ++wanted) {
    const int part_steps = div_up(steps, wanted);
    const int parts = div_up(steps, part_steps);
    const Cut cut{parts, part_steps, blocks / parts};
    const int rounds = div_up(tiles, cut.part_blocks) * part_steps;
    const bool has_room =
        static_cast<size_t>(stage_bytes(kProgramRows, cut.staged(n))) <= kMaxStageBytes;
    if (has_room && (least < 0 || rounds < least)) {
      least = rounds;
      best = cut;
    }
  }
  return best;
}

bool fits(const LinearArgs& args, const ProgramLimits& limits, bool is_gated = false) {
  const Cut cut = cut_of(args.m, args.n, is_gated, limits.blocks);
  return args.rows >= 1 && args.rows <= kProgramRows && args.m >= 1 && args.n % 64 == 0 &&
         is_bfloat16(args.x) && is_aligned(args.weight) &&
         static_cast<size_t>(stage_bytes(args.rows, cut.staged(args.n))) <= kMaxStageBytes;
}

bool fits(const GatedLinearArgs& args, const ProgramLimits& limits) {
  return fits(args.linear, limits, true) && args.linear.out.dtype == DType::kBFloat16;
}

bool fits(const LoraLinearArgs& args, const ProgramLimits& limits) {
  const LoraArgs& lora = args.lora;
  const auto is_whole = [](const LoraTarget& target) {
    return target.column % kProgramBoxRows == 0 && target.columns % kProgramBoxRows == 0;
  };
  const Rows& out = args.gated.data != nullptr ? args.gated : args.linear.out;
  return fits(args.linear, limits, args.gated.data != nullptr) && out.dtype == DType::kBFloat16 &&
         args.linear.m % 16 == 0 && lora.ids == nullptr && lora.n_targets >= 1 &&
         lora.n_segments <= kProgramLoraRows && args.linear.rows <= kProgramLoraRows &&
         args.n_rows <= kProgramLoraRows &&
         std::all_of(lora.targets, lora.targets + lora.n_targets, is_whole);
}

bool fits(const GeluMulArgs&, const ProgramLimits&) { return false; }

bool fits(const NormArgs& args, const ProgramLimits&) {
  return args.rows >= 1 && args.rows <= kProgramRows && args.width % 8 == 0 &&
         args.width <= kProgramNormWidth && args.x.dtype == DType::kFloat32 && is_aligned(args.x) &&
         is_bfloat16(args.out) && is_aligned(args.weight);
}

bool fits(const AddNormArgs& args, const ProgramLimits&) {
  return args.norm.rows >= 1 && args.norm.rows <= kProgramRows && args.norm.width % 8 == 0 &&
         args.norm.width <= kProgramNormWidth && is_bfloat16(args.norm.x) &&
         is_bfloat16(args.norm.out) && is_aligned(args.residual) && is_aligned(args.norm.weight) &&
         is_aligned(args.next_weight);
}

bool fits(const RotaryStoreArgs& args, const ProgramLimits&) {
  return args.rows >= 1 && args.rows <= kProgramRows && args.head_size % 16 == 0 &&
         is_bfloat16(args.q) && is_bfloat16(args.k) && is_bfloat16(args.v) &&
         is_aligned(args.key) && is_aligned(args.value);
}

// The most parts that the keys of a sequence are cut into.
int64_t splits_of(const AttentionArgs& args, const ProgramLimits& limits) {
  const int keys = args.window > 0 ? std::min(args.window, args.max_kv) : args.max_kv;
  return parts_at_most(keys, units_of_part(args), limits.blocks);
}

// Of the sums of all parts.
int64_t attention_floats(const AttentionArgs& args, const ProgramLimits& limits) {
  return int64_t{args.sequences} * args.heads * splits_of(args, limits) * (args.head_size + 2);
}

bool fits(const AttentionArgs& args, const ProgramLimits& limits) {
  return args.dtype == DType::kBFloat16 && args.max_q == 1 && args.sequences >= 1 &&
         args.sequences <= kProgramRows &&
         std::has_single_bit(static_cast<unsigned>(args.block_size)) && args.head_size % 8 == 0 &&
         args.head_size <= 256 && is_aligned(args.q) && args.q_stride % 8 == 0 &&
         is_aligned(args.key) && is_aligned(args.value) &&
         static_cast<size_t>(attention_floats(args, limits)) * sizeof(float) <=
             limits.scratch_bytes / 2;
}

// A range of device memory.
struct Range {
  const char* begin;
  const char* end;
  bool meets(const Range& other) const { return begin < other.end && other.begin < end; }
};

Range range_of(const void* data, int64_t rows, int64_t stride, int64_t width, size_t size) {
  const char* begin = static_cast<const char*>(data);
  return {begin, begin + ((rows - 1) * stride + width) * static_cast<int64_t>(size)};
}

class Compiler {
 public:
  explicit Compiler(const ProgramLimits& limits) : limits_(limits) {
    scratch_ = static_cast<float*>(limits.scratch);
    scratch_end_ = scratch_ + limits.scratch_bytes / sizeof(float);
    program_.stage_bytes = kProgramStageBytes;
  }

  void operator()(const LinearArgs& args) { product(args, false, {}); }
  void operator()(const GatedLinearArgs& args) { product(args.linear, true, {}); }
  void operator()(const LoraLinearArgs& args) {
    LinearArgs linear = args.linear;
    const bool is_gated = args.gated.data != nullptr;
    if (is_gated) linear.out = args.gated;
    product(linear, is_gated, low_rank(args));
  }
  void operator()(const GeluMulArgs&) { LORAX_CHECK(false); }

  void operator()(const NormArgs& args) {
    ProgramNorm norm{};
    norm.from = current(static_cast<float*>(args.x.data));
    norm.from_stride = norm.from == args.x.data ? args.x.stride : args.width;
    norm.next_weight = args.weight;
    norm.next_eps = args.eps;
    add_norm(norm, args);
  }

  void operator()(const AddNormArgs& args) {
    ProgramNorm norm{};
    norm.x = args.norm.x.data;
    norm.x_stride = args.norm.x.stride;
    take_sums(norm, args.norm);
    norm.weight = args.norm.weight;
    norm.eps = args.norm.eps;
    norm.next_weight = args.next_weight;
    norm.next_eps = args.next_eps;
    float* own = static_cast<float*>(args.residual.data);
    norm.from = current(own);
    norm.from_stride = norm.from == own ? args.residual.stride : args.norm.width;
    if (args.norm.rows <= kRowsEverywhere) {
      // Others may still read where it was: it goes to and fro between two places.
      Residual& residual = residuals_[own];
      if (residual.copy == nullptr) residual = {take(args.norm.rows * args.norm.width), false};
      residual.is_copied = !residual.is_copied;
      residual.rows = args.norm.rows;
      residual.width = args.norm.width;
      residual.stride = args.residual.stride;
    }
    norm.to = current(own);
    norm.to_stride = norm.to == own ? args.residual.stride : args.norm.width;
    add_norm(norm, args.norm);
  }

  void operator()(const RotaryStoreArgs& args) {
    Instruction instruction;
    instruction.kind = Instruction::kRotaryStore;
    instruction.rotary_store = args;
    add(instruction);
  }

  void operator()(const AttentionArgs& args) {
    ProgramAttention attention{};
    attention.args = args;
    attention.log_block_size = std::countr_zero(static_cast<unsigned>(args.block_size));
    if (is_rotated_by_last(args)) {
      attention.rotary_store = program_.instructions.back().rotary_store;
      attention.rotates = 1;
      program_.instructions.pop_back();
    }
    attention.splits = static_cast<int>(splits_of(args, limits_));
    const int64_t parts = int64_t{args.sequences} * args.heads * attention.splits;
    attention.values = attention_room_.take(*this, attention_floats(args, limits_));
    attention.tops = attention.values + parts * args.head_size;
    attention.sums = attention.tops + parts;
    Instruction instruction;
    instruction.kind = Instruction::kAttention;
    instruction.attention = attention;
    add(instruction);
    instruction.kind = Instruction::kMerge;
    add(instruction);
  }

  Program finish() {
    LORAX_CHECK(scratch_ <= scratch_end_);
    number_waits();
    for (const auto& [own, residual] : residuals_) {
      if (!residual.is_copied) continue;
      for (int64_t row = 0; row < residual.rows; ++row) {
        program_.copies.push_back({own + row * residual.stride,
                                   residual.copy + row * residual.width,
                                   static_cast<size_t>(residual.width) * sizeof(float)});
      }
    }
    return std::move(program_);
  }

 private:
  struct Residual {
    float* copy = nullptr;
    bool is_copied = false;  // where it is now
    int64_t rows = 0;
    int64_t width = 0;
    int64_t stride = 0;
  };

  // Where the residual is at this point of the program.
  float* current(float* own) const {
    const auto at = residuals_.find(own);
    return at != residuals_.end() && at->second.is_copied ? at->second.copy : own;
  }

  float* take(int64_t floats) {
    float* taken = scratch_;
    scratch_ += (floats + 3) / 4 * 4;
    return taken;
  }

  void add(Instruction& instruction, bool waits = true) {
    instruction.wait = waits ? 1 : 0;  // numbered in the end
    program_.instructions.push_back(instruction);
  }

  void number_waits() {
    auto in_table = program_.products.begin();
    for (Instruction& instruction : program_.instructions) {
      const bool is_first = &instruction == program_.instructions.data();
      instruction.wait = instruction.wait != 0 && !is_first ? ++program_.waits : 0;
      if (instruction.kind != Instruction::kProduct) continue;
      if (instruction.product.lora.n_targets > 0) {
        instruction.product.lora.wait = ++program_.waits;
        in_table->lora.wait = program_.waits;
      }
      ++in_table;
    }
  }

  void add_norm(ProgramNorm& norm, const NormArgs& args) {
    norm.out = args.out.data;
    norm.out_stride = args.out.stride;
    norm.rows = static_cast<int>(args.rows);
    norm.width = static_cast<int>(args.width);
    norm.part = static_cast<int>((args.width / 4 + limits_.blocks - 1) / limits_.blocks * 4);
    norm.everywhere = args.rows <= kRowsEverywhere ? 1 : 0;
    if (norm.everywhere != 0) reserve_stage(args.rows, args.width);
    Instruction instruction;
    instruction.kind = Instruction::kNorm;
    instruction.norm = norm;
    add(instruction);
  }

  void reserve_stage(int64_t rows, int64_t n) {
    program_.stage_bytes = std::max(program_.stage_bytes, stage_bytes(rows, n));
  }

  // Whether the instruction before has left x of this product in shared memory.
  bool is_in_place(const LinearArgs& args) const {
    if (program_.instructions.empty()) return false;
    const Instruction& last = program_.instructions.back();
    return last.kind == Instruction::kNorm && last.norm.everywhere != 0 &&
           last.norm.out == args.x.data && last.norm.out_stride == args.x.stride &&
           last.norm.rows == args.rows && last.norm.width == args.n;
  }

  // Whether blocks that are done with that norm may write `out` while others still read for it.
  bool may_overlap(const Range& out) const {
    const ProgramNorm& norm = program_.instructions.back().norm;
    const bool meets_from =
        out.meets(range_of(norm.from, norm.rows, norm.from_stride, norm.width, sizeof(float)));
    const bool meets_x = norm.x != nullptr && out.meets(range_of(norm.x, norm.rows, norm.x_stride,
                                                                 norm.width, sizeof(uint16_t)));
    return !meets_from && !meets_x;
  }

  // Whether the instruction before rotates the queries, keys and values of just this attention.
  bool is_rotated_by_last(const AttentionArgs& args) const {
    if (program_.instructions.empty()) return false;
    const Instruction& last = program_.instructions.back();
    const RotaryStoreArgs& rotary = last.rotary_store;
    return last.kind == Instruction::kRotaryStore && rotary.q.data == args.q &&
           rotary.q.stride == args.q_stride && rotary.key == args.key &&
           rotary.value == args.value && rotary.rows == args.tokens && rotary.heads == args.heads &&
           rotary.kv_heads == args.kv_heads && rotary.head_size == args.head_size;
  }

  // Has the norm to come add up the parts of its x, if the instruction before would do just that.
  void take_sums(ProgramNorm& norm, const NormArgs& args) {
    if (program_.instructions.empty()) return;
    const Instruction& last = program_.instructions.back();
    const ProgramSum& sum = last.sum;
    if (last.kind != Instruction::kSum || sum.out != args.x.data ||
        sum.out_stride != args.x.stride || sum.rows != args.rows || sum.m != args.width ||
        sum.is_float32 != 0) {
      return;
    }
    norm.sums = sum.sums;
    norm.parts = sum.parts;
    program_.instructions.pop_back();
  }

  void add_sum(const ProgramProduct& product) {
    Instruction instruction;
    instruction.kind = Instruction::kSum;
    instruction.sum = {.sums = product.sums,
                       .parts = product.parts,
                       .rows = product.rows,
                       .m = product.m,
                       .is_float32 = product.is_float32,
                       .out = product.out,
                       .out_stride = product.out_stride};
    add(instruction);
  }

  ProgramLora low_rank(const LoraLinearArgs& args) {
    const LoraArgs& from = args.lora;
    ProgramLora lora{};
    std::copy_n(from.targets, from.n_targets, lora.targets);
    lora.n_targets = from.n_targets;
    lora.n_segments = from.n_segments;
    lora.parts = static_cast<int>((args.linear.n + kProgramLoraPart - 1) / kProgramLoraPart);
    lora.room = low_ranks_++ % 2;
    lora.rows = from.rows;
    lora.segments = from.segments;
    lora.slots = from.slots;
    lora.entries = from.entries;
    lora.modules = from.modules;
    lora.h = lora_room_.take(*this, args.linear.rows * lora.n_targets * lora.parts * kMaxLoraRank);
    program_.has_lora = true;
    return lora;
  }

  void product(const LinearArgs& args, bool is_gated, const ProgramLora& lora) {
    ProgramProduct product{};
    product.x = args.x.data;
    product.x_stride = args.x.stride;
    product.weight = args.weight;
    product.out = args.out.data;
    product.out_stride = args.out.stride;
    product.rows = static_cast<int>(args.rows);
    product.m = static_cast<int>(args.m);
    product.n = static_cast<int>(args.n);
    product.is_gated = is_gated ? 1 : 0;
    product.lora = lora;
    product.is_float32 = args.out.dtype == DType::kFloat32 ? 1 : 0;
    product.tiles = div_up(args.m, kProgramTile);
    product.steps = div_up(args.n, kProgramRound);
    const Cut cut = cut_of(args.m, args.n, is_gated, limits_.blocks);
    product.parts = cut.parts;
    product.part_steps = cut.part_steps;
    product.part_blocks = cut.part_blocks;
    product.in_place = cut.parts == 1 && is_in_place(args) ? 1 : 0;
    // Blocks with a tile more than others are not always the same.
    product.rotation = static_cast<int>(program_.products.size() * 37) % limits_.blocks;
    product.claims = cut.part_steps < kMinClaimedSteps ? -1 : program_.claims;
    if (product.claims >= 0) program_.claims += cut.parts;
    if (cut.parts > 1) product.sums = sums_room_.take(*this, args.m * args.rows * cut.parts);
    reserve_stage(args.rows, cut.staged(args.n));
    Instruction instruction;
    instruction.kind = Instruction::kProduct;
    const Range out = range_of(args.out.data, args.rows, args.out.stride,
                               is_gated ? args.m / 2 : args.m, size_of(args.out.dtype));
    instruction.product = product;
    program_.products.push_back(product);
    add(instruction, product.in_place == 0 || !may_overlap(out));
    if (product.sums != nullptr) add_sum(product);
  }

  // Scratch that one instruction after the other uses, as large as the largest asks for.
  class Room {
   public:
    float* take(Compiler& compiler, int64_t floats) {
      if (floats > floats_) {
        data_ = compiler.take(floats);
        floats_ = floats;
      }
      return data_;
    }

   private:
    float* data_ = nullptr;
    int64_t floats_ = 0;
  };

  ProgramLimits limits_;
  Program program_;
  std::map<float*, Residual> residuals_;
  float* scratch_ = nullptr;
  float* scratch_end_ = nullptr;
  Room attention_room_;
  Room lora_room_;
  Room sums_room_;
  int low_ranks_ = 0;  // products with low-rank parts
};

}  // namespace

size_t Program::table_bytes() const {
  const size_t bytes = products.size() * (sizeof(CUtensorMap) + sizeof(ProgramProduct)) +
                       instructions.size() * sizeof(Instruction);
  return (bytes + kTableAlignment - 1) / kTableAlignment * kTableAlignment;
}

std::vector<std::byte> Program::table(std::span<const CUtensorMap> maps) const {
  LORAX_CHECK(maps.size() == products.size());
  std::vector<std::byte> table;
  for (const auto bytes : {std::as_bytes(maps), std::as_bytes(std::span(instructions)),
                           std::as_bytes(std::span(products))}) {
    table.insert(table.end(), bytes.begin(), bytes.end());
  }
  table.resize(table_bytes());
  return table;
}

bool is_programmable(const Operation& operation, const ProgramLimits& limits) {
  return std::visit([&](const auto& args) { return fits(args, limits); }, operation);
}

Program compile(std::span<const Operation> operations, const ProgramLimits& limits) {
  Compiler compiler(limits);
  for (const Operation& operation : operations) std::visit(compiler, operation);
  return compiler.finish();
}

}  // namespace lorax::cuda
