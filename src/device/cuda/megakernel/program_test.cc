#include "device/cuda/megakernel/program.h"

#include <gtest/gtest.h>

#include <vector>

namespace lorax::cuda {
namespace {

// Addresses that nobody reads: a program is made on the host, of numbers alone.
class Memory {
 public:
  void* take(int64_t bytes) {
    next_ += (bytes + 255) / 256 * 256;
    return reinterpret_cast<void*>(next_ - (bytes + 255) / 256 * 256);
  }
  Rows rows(DType dtype, int64_t rows, int64_t width) {
    return {take(rows * width * static_cast<int64_t>(size_of(dtype))), dtype, width};
  }
  Rows rows(int64_t n_rows, int64_t width) { return rows(DType::kBFloat16, n_rows, width); }
  float* floats(int64_t n) { return static_cast<float*>(take(n * 4)); }

 private:
  intptr_t next_ = 4096;
};

class ProgramTest : public ::testing::Test {
 protected:
  static constexpr int64_t kHidden = 2304;

  LinearArgs linear(const Rows& x, int64_t rows, int64_t m, const Rows& out) {
    return {.x = x,
            .weight = memory_.take(m * x.stride * 2),
            .out = out,
            .rows = rows,
            .m = m,
            .n = x.stride};
  }

  AddNormArgs add_norm(const Rows& x, int64_t rows, const Rows& residual, const Rows& out) {
    return {.norm = {.x = x,
                     .weight = memory_.floats(kHidden),
                     .rows = rows,
                     .width = kHidden,
                     .eps = 1e-6f,
                     .out = out},
            .residual = residual,
            .next_weight = memory_.floats(kHidden),
            .next_eps = 1e-6f};
  }

  Program compiled(const std::vector<Operation>& operations) {
    for (const Operation& operation : operations) EXPECT_TRUE(is_programmable(operation, limits_));
    return compile(operations, limits_);
  }

  Memory memory_;
  ProgramLimits limits_{.blocks = 132,
                        .shared_bytes = 227 << 10,
                        .scratch = memory_.take(32 << 20),
                        .scratch_bytes = 32 << 20,
                        .sync = nullptr};
};

TEST_F(ProgramTest, EveryTileOfEveryPartHasABlock) {
  for (int64_t m : {1, 16, 17, 2304, 3584, 256000}) {
    for (int64_t n : {64, 2304, 9216, 14336}) {
      const Rows x = memory_.rows(1, n);
      const Program program = compiled({linear(x, 1, m, memory_.rows(1, m))});
      ASSERT_EQ(program.products.size(), 1u);
      const ProgramProduct& product = program.products[0];
      EXPECT_EQ(product.tiles, (m + 15) / 16);
      EXPECT_EQ(product.steps, (n + 511) / 512);
      EXPECT_GE(product.part_blocks, 1);
      EXPECT_LE(product.parts * product.part_blocks, 132);
      EXPECT_LT((product.parts - 1) * product.part_steps, product.steps) << "a part of nothing";
      EXPECT_GE(product.parts * product.part_steps, product.steps);
      EXPECT_EQ(product.in_place, 0);
      EXPECT_EQ(program.instructions[0].wait, 0) << "nothing comes before";
    }
  }
}

TEST_F(ProgramTest, TermsAreCutWhereWholeTilesAreUneven) {
  const auto parts = [&](int64_t m, int64_t n) {
    const Rows x = memory_.rows(1, n);
    return compiled({linear(x, 1, m, memory_.rows(1, m))}).products[0].parts;
  };
  EXPECT_EQ(parts(132 * 16, 2304), 1);
  EXPECT_EQ(parts(4096, 2304), 1) << "four blocks have none";
  EXPECT_EQ(parts(18432, 2304), 1);
  EXPECT_EQ(parts(3584, 4096), 4) << "seven tiles of two rounds; whole, two of eight";
  EXPECT_EQ(parts(3584, 14336), 4);
  EXPECT_EQ(parts(2304, 9216), 6);
}

// The order of sums must not depend on the rows.
TEST_F(ProgramTest, CutsAreTheSameForAnyNumberOfRows) {
  for (int64_t n : {2048, 9216, 36864}) {
    const auto cut = [&](int64_t rows) {
      const ProgramProduct product =
          compiled({linear(memory_.rows(rows, n), rows, kHidden, memory_.rows(rows, kHidden))})
              .products[0];
      return std::pair(product.parts, product.part_steps);
    };
    for (int64_t rows : {2, 8, 9, 16}) EXPECT_EQ(cut(rows), cut(1)) << rows << " rows of " << n;
  }
}

TEST_F(ProgramTest, ANormAddsUpThePartsOfAProduct) {
  const Rows residual = memory_.rows(DType::kFloat32, 2, kHidden);
  const auto program = [&](const Rows& out, const Rows& x) {
    return compiled({linear(memory_.rows(2, 9216), 2, kHidden, out),
                     add_norm(x, 2, residual, memory_.rows(2, kHidden))});
  };
  const Rows out = memory_.rows(2, kHidden);
  const Program taken = program(out, out);
  ASSERT_EQ(taken.instructions.size(), 2u);
  ASSERT_NE(taken.instructions[0].product.sums, nullptr);
  EXPECT_EQ(taken.instructions[1].norm.sums, taken.instructions[0].product.sums);
  EXPECT_EQ(taken.instructions[1].norm.parts, taken.instructions[0].product.parts);
  const Program other = program(out, memory_.rows(2, kHidden));
  ASSERT_EQ(other.instructions.size(), 3u) << "a norm of something else";
  EXPECT_EQ(other.instructions[1].kind, Instruction::kSum);
  EXPECT_EQ(other.instructions[1].sum.sums, other.instructions[0].product.sums);
  EXPECT_EQ(other.instructions[1].sum.out, out.data);
  EXPECT_EQ(other.instructions[1].wait, 1);
  EXPECT_EQ(other.instructions[2].norm.sums, nullptr);
}

TEST_F(ProgramTest, AProductFindsTheNormOfFewRowsInPlace) {
  for (int64_t rows : {1, 2, 3, 8}) {
    const Rows residual = memory_.rows(DType::kFloat32, rows, kHidden);
    const Rows hidden = memory_.rows(rows, kHidden);
    const Program program = compiled({add_norm(memory_.rows(rows, kHidden), rows, residual, hidden),
                                      linear(hidden, rows, 4096, memory_.rows(rows, 4096))});
    const bool everywhere = rows <= 2;
    EXPECT_EQ(program.instructions[0].norm.everywhere, everywhere ? 1 : 0);
    EXPECT_EQ(program.instructions[1].product.in_place, everywhere ? 1 : 0);
    EXPECT_EQ(program.instructions[1].wait, everywhere ? 0 : 1);
  }
}

TEST_F(ProgramTest, AProductWaitsBeforeItWritesWhatTheNormReads) {
  const Rows residual = memory_.rows(DType::kFloat32, 1, kHidden);
  const Rows hidden = memory_.rows(1, kHidden);
  const Rows x = memory_.rows(1, kHidden);
  const Program program =
      compiled({add_norm(x, 1, residual, hidden), linear(hidden, 1, 132 * 16, x)});
  EXPECT_EQ(program.instructions[1].product.in_place, 1);
  EXPECT_EQ(program.instructions[1].wait, 1);
}

// Blocks may still read the residual where it was when others write it.
TEST_F(ProgramTest, AResidualGoesToAndFroBetweenTwoPlaces) {
  const Rows residual = memory_.rows(DType::kFloat32, 1, kHidden);
  float* own = static_cast<float*>(residual.data);
  const Rows x = memory_.rows(1, kHidden);
  const Rows hidden = memory_.rows(1, kHidden);
  std::vector<Operation> operations;
  for (int count = 1; count <= 4; ++count) {
    operations.emplace_back(add_norm(x, 1, residual, hidden));
    const Program program = compiled(operations);
    for (size_t i = 0; i < program.instructions.size(); ++i) {
      const ProgramNorm& norm = program.instructions[i].norm;
      EXPECT_NE(norm.from, norm.to);
      EXPECT_EQ(i % 2 == 0 ? norm.from : norm.to, own);
      if (i > 0) {
        EXPECT_EQ(norm.from, program.instructions[i - 1].norm.to);
      }
    }
    // In the end it is where its owner looks for it.
    ASSERT_EQ(program.copies.size(), static_cast<size_t>(count % 2));
    if (count % 2 == 1) {
      EXPECT_EQ(program.copies[0].to, own);
      EXPECT_EQ(program.copies[0].from, program.instructions.back().norm.to);
      EXPECT_EQ(program.copies[0].bytes, kHidden * sizeof(float));
    }
  }
}

TEST_F(ProgramTest, AttentionRotatesWhatWasToBeRotatedBeforeIt) {
  constexpr int64_t kHeads = 8, kKvHeads = 4, kSize = 256;
  const Rows qkv = memory_.rows(1, (kHeads + 2 * kKvHeads) * kSize);
  const RotaryStoreArgs rotary{.q = qkv,
                               .k = memory_.rows(1, kKvHeads * kSize),
                               .v = memory_.rows(1, kKvHeads * kSize),
                               .rows = 1,
                               .heads = kHeads,
                               .kv_heads = kKvHeads,
                               .head_size = kSize,
                               .key = memory_.take(1 << 20),
                               .value = memory_.take(1 << 20)};
  AttentionArgs attention;
  attention.dtype = DType::kBFloat16;
  attention.q = qkv.data;
  attention.q_stride = qkv.stride;
  attention.key = rotary.key;
  attention.value = rotary.value;
  attention.sequences = 1;
  attention.tokens = 1;
  attention.heads = kHeads;
  attention.kv_heads = kKvHeads;
  attention.head_size = kSize;
  attention.max_q = 1;
  attention.block_size = 16;
  attention.max_kv = 1000;
  const Program fused = compiled({rotary, attention});
  ASSERT_EQ(fused.instructions.size(), 2u);
  EXPECT_EQ(fused.instructions[0].kind, Instruction::kAttention);
  EXPECT_EQ(fused.instructions[0].attention.rotates, 1);
  EXPECT_EQ(fused.instructions[0].attention.splits, 32);
  EXPECT_EQ(fused.instructions[1].kind, Instruction::kMerge);

  attention.key = memory_.take(1 << 20);  // of another layer
  const Program apart = compiled({rotary, attention});
  ASSERT_EQ(apart.instructions.size(), 3u);
  EXPECT_EQ(apart.instructions[0].kind, Instruction::kRotaryStore);
  EXPECT_EQ(apart.instructions[1].attention.rotates, 0);
  // Waits are numbered as blocks come to them.
  EXPECT_EQ(fused.instructions[1].wait, 1);
  EXPECT_EQ(apart.instructions[1].wait, 1);
  EXPECT_EQ(apart.instructions[2].wait, 2);
}

// Equal sequences take all blocks, and none waits for a long one.
TEST_F(ProgramTest, KeysAreCutByTheirNumberAndThatOfTheUnits) {
  EXPECT_EQ(parts_at_most(0, 8, 132), 1);
  EXPECT_EQ(parts_at_most(33, 8, 132), 2);
  EXPECT_EQ(parts_at_most(1040, 8, 132), 16) << "one sequence";
  EXPECT_EQ(parts_at_most(500, 64, 132), 2) << "eight: all blocks have one part";
  EXPECT_EQ(parts_at_most(1040, 64, 132), 4) << "two";
  EXPECT_EQ(parts_at_most(500, 128, 132), 1) << "sixteen";
  EXPECT_EQ(parts_at_most(8192, 128, 132), 16);
  int before = 0;
  for (int keys = 0; keys < 9000; keys += 7) {
    const int parts = parts_at_most(keys, 128, 132);
    EXPECT_GE(parts, before) << "of fewer keys no more, as there is room for";
    before = parts;
  }
}

LoraLinearArgs with_low_rank(const LinearArgs& linear) {
  LoraLinearArgs args;
  args.linear = linear;
  args.n_rows = linear.rows;
  args.lora.n_targets = 1;
  args.lora.targets[0] = {.module = 0, .column = 0, .columns = linear.m};
  args.lora.n_segments = static_cast<int>(linear.rows);
  return args;
}

// A x of a product is told like the end of an instruction, in between.
TEST_F(ProgramTest, LowRankPartsHaveWaitsAndRoomsInTurn) {
  const Rows residual = memory_.rows(DType::kFloat32, 2, kHidden);
  const Rows product = memory_.rows(2, kHidden);
  const Rows hidden = memory_.rows(2, kHidden);
  const Program program =
      compiled({with_low_rank(linear(memory_.rows(2, 4096), 2, kHidden, product)),
                add_norm(product, 2, residual, hidden),
                with_low_rank(linear(hidden, 2, 4096, memory_.rows(2, 4096)))});
  ASSERT_EQ(program.instructions.size(), 3u);
  EXPECT_TRUE(program.has_lora);
  const ProgramLora& first = program.instructions[0].product.lora;
  const ProgramLora& second = program.instructions[2].product.lora;
  EXPECT_EQ(program.instructions[0].wait, 0);
  EXPECT_EQ(first.wait, 1);
  EXPECT_EQ(program.instructions[1].wait, 2);
  EXPECT_EQ(program.instructions[2].wait, 0) << "x is in place";
  EXPECT_EQ(second.wait, 3);
  EXPECT_EQ(program.waits, 3);
  EXPECT_EQ(first.parts, 4);
  EXPECT_EQ(second.parts, 3);
  EXPECT_NE(first.room, second.room);
  EXPECT_EQ(first.h, second.h);
}

TEST_F(ProgramTest, TakesLowRankPartsOfFewRowsAndWholeBoxes) {
  const LoraLinearArgs args =
      with_low_rank(linear(memory_.rows(8, kHidden), 8, 64, memory_.rows(8, 64)));
  EXPECT_TRUE(is_programmable(args, limits_));
  LoraLinearArgs other = args;
  other.lora.targets[0].columns = 60;
  EXPECT_FALSE(is_programmable(other, limits_));
  other = args;
  other.n_rows = 9;
  EXPECT_FALSE(is_programmable(other, limits_));
  other = args;
  other.linear.out.dtype = DType::kFloat32;
  EXPECT_FALSE(is_programmable(other, limits_));
  EXPECT_FALSE(is_programmable(GeluMulArgs{}, limits_));
}

TEST_F(ProgramTest, TakesWhatItCanRunOnly) {
  const auto product = [&](int64_t rows, int64_t n, DType dtype) {
    return is_programmable(
        linear(memory_.rows(dtype, rows, n), rows, 4096, memory_.rows(dtype, rows, 4096)), limits_);
  };
  EXPECT_TRUE(product(16, 64, DType::kBFloat16));
  EXPECT_FALSE(product(17, 64, DType::kBFloat16));
  EXPECT_FALSE(product(1, 64, DType::kFloat32));
  EXPECT_FALSE(product(1, 72, DType::kBFloat16)) << "panels of 64 elements";
  EXPECT_TRUE(product(8, 4608, DType::kBFloat16));
  EXPECT_FALSE(product(16, 4608, DType::kBFloat16)) << "more than shared memory holds";
  // Unless the terms are cut.
  EXPECT_TRUE(
      is_programmable(linear(memory_.rows(16, 36864), 16, 4608, memory_.rows(16, 4608)), limits_));
  AttentionArgs prefill;
  prefill.dtype = DType::kBFloat16;
  prefill.max_q = 2;
  EXPECT_FALSE(is_programmable(prefill, limits_));
}

}  // namespace
}  // namespace lorax::cuda
