// Attention of one layer of Gemma 2 2B (8 query heads, 4 key/value heads of 256, bfloat16):
// prefill in GFLOP/s of the two products, decode in bytes of keys and values per second.
#include <benchmark/benchmark.h>

#include <numeric>
#include <vector>

#include "device/device.h"
#include "device/factory/device_factory.h"

namespace lorax {
namespace {

constexpr int64_t kHeads = 8;
constexpr int64_t kKvHeads = 4;
constexpr int64_t kHeadSize = 256;
constexpr int64_t kBlockSize = 16;

// `sequences` sequences of `length` tokens, the last `rows` of which are this step's.
class Batch {
 public:
  Batch(Device& device, int64_t sequences, int rows, int64_t length)
      : queries_(sequences * rows * kHeads * kHeadSize, BFloat16(0.5f)),
        out_(queries_.size()),
        tables_(sequences * blocks_of(length)),
        lengths_(sequences, static_cast<int32_t>(length)),
        cu_seqlens_(sequences + 1) {
    std::iota(tables_.begin(), tables_.end(), 0);
    for (size_t i = 0; i < cu_seqlens_.size(); ++i) cu_seqlens_[i] = static_cast<int32_t>(i) * rows;
    const int64_t blocks = static_cast<int64_t>(tables_.size());
    const int64_t elements = blocks * kBlockSize * kKvHeads * kHeadSize;
    for (Tensor* pages : {&kv_.key, &kv_.value}) {
      buffers_.emplace_back(device, elements * sizeof(BFloat16));
      *pages = Tensor(buffers_.back().data(), DType::kBFloat16,
                      {blocks, kBlockSize, kKvHeads, kHeadSize});
      for (int64_t i = 0; i < elements; ++i) {
        pages->as<BFloat16>()[i] = BFloat16(static_cast<float>(i % 13) * 0.01f);
      }
    }
    batch_ = {.cu_seqlens_q = Tensor(cu_seqlens_.data(), DType::kInt32, {sequences + 1}),
              .kv_lengths = Tensor(lengths_.data(), DType::kInt32, {sequences}),
              .block_tables = Tensor(tables_.data(), DType::kInt32, {sequences, blocks_of(length)}),
              .max_q = rows,
              .max_kv = static_cast<int>(length)};
  }

  void attend(Device& device, int window) {
    const int64_t rows = cu_seqlens_.back();
    device.attention(Tensor(queries_.data(), DType::kBFloat16, {rows, kHeads, kHeadSize}), kv_,
                     batch_, {.scale = 0.0625f, .softcap = 50.0f, .window = window},
                     Tensor(out_.data(), DType::kBFloat16, {rows, kHeads, kHeadSize}));
  }

 private:
  static int64_t blocks_of(int64_t length) { return (length + kBlockSize - 1) / kBlockSize; }

  std::vector<BFloat16> queries_, out_;
  std::vector<int32_t> tables_, lengths_, cu_seqlens_;
  std::vector<Buffer> buffers_;
  PagedKv kv_;
  AttentionBatch batch_;
};

void prefill(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const auto device = make_device({.name = "cpu", .threads = static_cast<int>(state.range(1))});
  Batch batch(*device, 1, static_cast<int>(tokens), tokens);
  for (auto _ : state) batch.attend(*device, 0);
  const double pairs = static_cast<double>(tokens * (tokens + 1) / 2 * kHeads);
  state.counters["FLOP/s"] =
      benchmark::Counter(4.0 * pairs * kHeadSize, benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(prefill)
    ->ArgNames({"tokens", "threads"})
    ->ArgsProduct({{128, 512, 2048}, {1, 2}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

void decode(benchmark::State& state) {
  const int64_t sequences = state.range(0);
  const int64_t length = state.range(1);
  const auto device = make_device({.name = "cpu", .threads = static_cast<int>(state.range(2))});
  Batch batch(*device, sequences, 1, length);
  for (auto _ : state) batch.attend(*device, 0);
  state.SetBytesProcessed(state.iterations() * sequences * length * kKvHeads * kHeadSize * 2 *
                          static_cast<int64_t>(sizeof(BFloat16)));
}
BENCHMARK(decode)
    ->ArgNames({"sequences", "length", "threads"})
    ->ArgsProduct({{1}, {128, 1024, 8192}, {1, 2}})
    ->ArgsProduct({{32}, {512, 4096}, {1, 2}})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();

}  // namespace
}  // namespace lorax

BENCHMARK_MAIN();
