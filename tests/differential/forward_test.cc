// The forward contract on the CPU: whatever way the tokens of a sequence are cut into steps, and
// whatever runs beside them, its logits are the same to the last bit.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "cli/bench_adapters.h"
#include "harness.h"

// Counts heap allocations of this program, for the test that a step makes none.
static std::atomic<int64_t> allocation_count{0};

void* operator new(size_t size) {
  allocation_count.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  allocation_count.fetch_add(1, std::memory_order_relaxed);
  return std::malloc(size);
}
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"  // GCC 12 inlines one of the two only
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace lorax {
namespace {

using differential::Harness;
using differential::kVocab;
using differential::load;
using differential::random_tokens;

class ForwardTest : public testing::TestWithParam<DType> {
 protected:
  // Sequence 0, 150 tokens in one step, alone, on one thread.
  std::vector<float> reference() {
    LoadedModel loaded = load(GetParam(), 1);
    Harness harness(loaded, {150});
    harness.step({{0, 150}});
    return harness.logits(0);
  }
};

TEST_P(ForwardTest, ChunksOfAnySizeGiveTheSameBits) {
  const std::vector<float> expected = reference();
  LoadedModel loaded = load(GetParam(), 2);
  for (int64_t chunk : {1, 7, 16, 64, 100}) {
    Harness harness(loaded, {150});
    for (int64_t done = 0; done < 150; done += chunk) {
      harness.step({{0, std::min(chunk, 150 - done)}});
    }
    EXPECT_EQ(harness.logits(0), expected) << "chunks of " << chunk;
  }
}

TEST_P(ForwardTest, BatchMatesChangeNothing) {
  const std::vector<float> expected = reference();
  for (int threads : {1, 2, 3}) {
    LoadedModel loaded = load(GetParam(), threads);
    Harness harness(loaded, {150, 1, 33, 200});
    // Prefill beside prefill, chunks beside decode steps, then decode alone.
    harness.step({{3, 100}, {0, 60}, {1, 1}});
    harness.step({{2, 30}, {0, 1}, {3, 50}});
    harness.step({{0, 80}, {2, 1}, {3, 1}});
    while (harness.sequence(0).pending() > 0) {
      if (harness.sequence(2).pending() > 0) {
        harness.step({{2, 1}, {0, 1}});
      } else {
        harness.step({{0, 1}});
      }
    }
    EXPECT_EQ(harness.logits(0), expected) << threads << " threads";
  }
}

TEST_P(ForwardTest, AdaptersOfBatchMatesChangeNothing) {
  LoadedModel loaded = load(GetParam(), 2);
  const cli::BenchAdapters adapters(loaded, 3, 5, {"all"});
  const auto alone = [&](int32_t adapter) {
    Harness harness(loaded, {150}, &adapters.tables());
    harness.sequence(0).adapter = adapter;
    harness.step({{0, 150}});
    return harness.logits(0);
  };
  const std::vector<float> base = alone(kNoAdapter);
  EXPECT_EQ(base, reference());
  for (int32_t adapter : {kNoAdapter, 0, 2}) {
    const std::vector<float> expected = alone(adapter);
    EXPECT_EQ(expected == base, adapter == kNoAdapter);
    Harness harness(loaded, {150, 33, 60, 20}, &adapters.tables());
    harness.sequence(0).adapter = adapter;
    harness.sequence(1).adapter = 2;
    harness.sequence(2).adapter = kNoAdapter;
    harness.sequence(3).adapter = 1;
    harness.step({{2, 40}, {0, 70}, {1, 3}});
    harness.step({{3, 1}, {0, 1}, {1, 1}, {2, 1}});
    harness.step({{1, 20}, {3, 10}, {0, 79}});
    EXPECT_EQ(harness.logits(0), expected) << "adapter " << adapter;
  }
}

TEST_P(ForwardTest, TheWindowAndTheDistantPastBothMatter) {
  // Changing the token just outside the window changes later logits only through full layers.
  LoadedModel loaded = load(GetParam(), 2);
  Harness harness(loaded, {40, 40});
  harness.sequence(1).tokens = harness.sequence(0).tokens;
  harness.sequence(1).tokens[0] = (harness.sequence(0).tokens[0] + 1) % kVocab;
  harness.step({{0, 40}, {1, 40}});
  EXPECT_NE(std::vector<float>(harness.logits(0).end() - kVocab, harness.logits(0).end()),
            std::vector<float>(harness.logits(1).end() - kVocab, harness.logits(1).end()));
}

// The reference's forward, without a runner, against forward() and head().
class ContractTest : public ForwardTest {
 protected:
  static constexpr int64_t kTokens = 50;

  // One prompt in the pages 0, 1, ... in order, by the reference's names.
  struct Prompt {
    std::vector<int32_t> ids = random_tokens(kTokens, 9), positions;
    std::vector<int64_t> slots;
    std::vector<int32_t> cu_seqlens = {0, kTokens}, kv_lengths = {kTokens};
    std::vector<int32_t> block_table = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    std::vector<int32_t> cache_indices, head_indices;

    Prompt() {
      for (int32_t i = 0; i < kTokens; ++i) {
        positions.push_back(i);
        slots.push_back(i);
      }
    }
  };

  static Tensor of(std::vector<int32_t>& values) {
    if (values.empty()) return {};
    return Tensor(values.data(), DType::kInt32, {static_cast<int64_t>(values.size())});
  }

  HeadOutput reference_forward(Prompt& prompt, bool skip_lm_head = false, bool as_decode = false) {
    const Tensor cu_seqlens = of(prompt.cu_seqlens);
    return loaded_.model().forward(context_, of(prompt.ids), of(prompt.positions),
                                   as_decode ? Tensor() : cu_seqlens, cache_.layers(),
                                   of(prompt.block_table).view({1, 10}),
                                   Tensor(prompt.slots.data(), DType::kInt64, {kTokens}),
                                   {.cu_seqlen_q = as_decode ? cu_seqlens : Tensor(),
                                    .kv_lengths = of(prompt.kv_lengths),
                                    .max_q = static_cast<int>(kTokens)},
                                   prompt.kv_lengths[0], nullptr, of(prompt.cache_indices),
                                   of(prompt.head_indices), skip_lm_head);
  }

  ForwardBatch batch(Prompt& prompt) {
    ForwardBatch batch;
    batch.input_ids = of(prompt.ids);
    batch.position_ids = of(prompt.positions);
    batch.slots = Tensor(prompt.slots.data(), DType::kInt64, {kTokens});
    batch.attention = {.cu_seqlens_q = of(prompt.cu_seqlens),
                       .kv_lengths = of(prompt.kv_lengths),
                       .block_tables = of(prompt.block_table).view({1, 10}),
                       .max_q = static_cast<int>(kTokens),
                       .max_kv = static_cast<int>(kTokens)};
    batch.kv_cache = cache_.layers();
    batch.output_rows = of(prompt.head_indices);
    return batch;
  }

  static std::vector<float> copy(const Tensor& tensor) {
    std::vector<float> values(static_cast<size_t>(tensor.numel()));
    convert(tensor.data, tensor.dtype, values.data(), DType::kFloat32, values.size());
    return values;
  }

  LoadedModel loaded_ = load(GetParam(), 2);
  Workspace workspace_{loaded_.device(), size_t{64} << 20};
  Context context_{loaded_.device(), workspace_};
  KvCache cache_{loaded_.device(), loaded_.model().kv_shape(), 10};
};

TEST_P(ContractTest, TheReferencesForwardIsForwardAndHead) {
  Prompt prompt;
  const HeadOutput all = reference_forward(prompt);
  ASSERT_TRUE(all.logits.has_shape({kTokens, kVocab}));
  EXPECT_TRUE(all.speculative_logits.empty());
  EXPECT_EQ(copy(reference_forward(prompt, false, true).logits), copy(all.logits));

  prompt.head_indices = {49, 3, 3};
  const HeadOutput some = reference_forward(prompt);
  ASSERT_TRUE(some.logits.has_shape({3, kVocab}));
  for (int64_t i = 0; i < 3; ++i) {
    const int32_t row = prompt.head_indices[static_cast<size_t>(i)];
    EXPECT_EQ(copy(some.logits.slice(0, i, i + 1)), copy(all.logits.slice(0, row, row + 1)));
  }

  const Tensor hidden = loaded_.model().forward(context_, batch(prompt));
  ASSERT_TRUE(hidden.has_shape({3, 72}));
  EXPECT_EQ(hidden.dtype, GetParam());
  EXPECT_EQ(copy(reference_forward(prompt, true).logits), copy(hidden));
  EXPECT_EQ(copy(loaded_.model().head(context_, hidden, nullptr).logits), copy(some.logits));
}

TEST_P(ContractTest, RowsOutsidePrefillCacheIndicesAreNotWritten) {
  Prompt prompt;
  const std::vector<float> expected = copy(reference_forward(prompt).logits);
  // Pages 0 to 2 are full; what lies behind token 49 was never written and may be NaN.
  const Tensor pages = cache_.layers()[2].key.slice(0, 0, 3);
  const std::vector<float> keys = copy(pages);

  // The same prompt again: its first 40 tokens lie in the cache and must not be written, as when
  // they are shared pages. Were they written, the wrong slots given for them would show.
  for (size_t i = 0; i < 40; ++i) prompt.slots[i] = 47 - static_cast<int64_t>(i % 5);
  for (int32_t row = 40; row < 50; ++row) prompt.cache_indices.push_back(row);
  EXPECT_EQ(copy(reference_forward(prompt).logits), expected);
  EXPECT_EQ(copy(pages), keys);
}

TEST_P(ForwardTest, AStepAllocatesNothingAfterTheFirst) {
  LoadedModel loaded = load(GetParam(), 2);
  const cli::BenchAdapters adapters(loaded, 2, 5, {"all"});
  Harness harness(loaded, {130, 130}, &adapters.tables());
  harness.sequence(0).adapter = 1;
  harness.sequence(1).adapter = 0;
  std::vector<SequenceStep> steps(2);
  auto advance = [&](int64_t tokens) {
    for (size_t i = 0; i < 2; ++i) steps[i] = next_step(harness.sequence(i), tokens);
    harness.runner().step(steps);
    harness.runner().logits(0, 2);
    for (size_t i = 0; i < 2; ++i) harness.sequence(i).cached += tokens;
  };
  advance(10);
  advance(1);
  const int64_t before = allocation_count.load();
  for (int step = 0; step < 100; ++step) advance(1);
  EXPECT_EQ(allocation_count.load() - before, 0);
}

INSTANTIATE_TEST_SUITE_P(DTypes, ForwardTest,
                         testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat16),
                         [](const auto& info) { return std::string(name_of(info.param)); });
INSTANTIATE_TEST_SUITE_P(DTypes, ContractTest,
                         testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace
}  // namespace lorax
