#include "device/cpu/attention.h"

#include <algorithm>
#include <vector>

#include "device/cpu/attention_tile.h"
#include "device/cpu/memory.h"

namespace lorax::cpu {
namespace {

// With no more jobs (a tile and a key/value head) than this per thread, their partitions are spread
// over the threads too.
constexpr int kJobsPerThread = 4;

}  // namespace

struct Attention::Impl {
  explicit Impl(ThreadPool& pool);

  void run(const AttentionCall& call);

  // Fills tiles_ with those of all sequences.
  void plan(const AttentionCall& call);
  // One thread takes all partitions of a tile.
  void run_tiles(const AttentionCall& call);
  // Threads share the partitions of a tile.
  void run_partitions(const AttentionCall& call);

  // Partitions [wave, wave + states in partial_) of all are in partial_: merges those of tile
  // `index` to its total, and writes the output after the last.
  void merge_wave(const AttentionCall& call, int64_t index, int64_t wave);

  ThreadPool& pool_;
  FloatArray memory_;
  std::vector<TileScratch> scratch_;   // per thread
  std::vector<SoftmaxState> partial_;  // partitions in flight; at least one per thread
  std::vector<SoftmaxState> total_;    // per tile of run_partitions(); at least one per thread

  std::vector<QueryTile> tiles_;
  // run_partitions() counts all partitions of all tiles and heads through; those of
  // (tile, head) i end here.
  std::vector<int64_t> partition_ends_;
};

Attention::Impl::Impl(ThreadPool& pool)
    : pool_(pool),
      memory_(static_cast<size_t>(pool.size()) *
              (TileScratch::kFloats + 2 * kJobsPerThread * SoftmaxState::kFloats)) {
  const size_t threads = static_cast<size_t>(pool.size());
  const size_t states = kJobsPerThread * threads;
  float* memory = memory_.data();
  for (size_t i = 0; i < threads; ++i, memory += TileScratch::kFloats) {
    scratch_.emplace_back(memory);
  }
  for (std::vector<SoftmaxState>* group : {&partial_, &total_}) {
    for (size_t i = 0; i < states; ++i, memory += SoftmaxState::kFloats) {
      group->emplace_back(memory);
    }
  }
  partition_ends_.reserve(states);
}

void Attention::Impl::run(const AttentionCall& call) {
  plan(call);
  const int64_t jobs = static_cast<int64_t>(tiles_.size()) * call.kv.key.dim(2);
  const bool divisible = std::any_of(tiles_.begin(), tiles_.end(),
                                     [](const QueryTile& tile) { return tile.partitions > 1; });
  if (divisible && pool_.size() > 1 && jobs <= static_cast<int64_t>(total_.size())) {
    run_partitions(call);
  } else {
    run_tiles(call);
  }
}

void Attention::Impl::plan(const AttentionCall& call) {
  const int32_t* cu_seqlens = call.batch.cu_seqlens_q.as<int32_t>();
  const int sequences = static_cast<int>(call.batch.kv_lengths.dim(0));
  tiles_.clear();
  for (int sequence = 0; sequence < sequences; ++sequence) {
    const int rows = (cu_seqlens[sequence + 1] - cu_seqlens[sequence]) * call.group();
    for (int row = 0; row < rows; row += kTileRows) {
      tiles_.push_back(make_query_tile(call, sequence, row, std::min(kTileRows, rows - row)));
    }
  }
  // The longest first, so that none of them starts when the other threads are about to end.
  auto work = [](const QueryTile& tile) { return tile.rows * tile.partitions; };
  std::sort(tiles_.begin(), tiles_.end(),
            [&](const QueryTile& a, const QueryTile& b) { return work(a) > work(b); });
}

void Attention::Impl::run_tiles(const AttentionCall& call) {
  const int64_t kv_heads = call.kv.key.dim(2);
  const int head_size = static_cast<int>(call.q.dim(2));
  pool_.parallel_for(
      static_cast<int64_t>(tiles_.size()) * kv_heads, [&](int64_t index, int worker) {
        const QueryTile& tile = tiles_[static_cast<size_t>(index / kv_heads)];
        const int kv_head = static_cast<int>(index % kv_heads);
        const TileScratch& scratch = scratch_[static_cast<size_t>(worker)];
        const SoftmaxState& total = total_[static_cast<size_t>(worker)];
        const SoftmaxState& partial = partial_[static_cast<size_t>(worker)];
        attend_partition(call, tile, kv_head, tile.first_partition, scratch, total);
        for (int i = 1; i < tile.partitions; ++i) {
          attend_partition(call, tile, kv_head, tile.first_partition + i, scratch, partial);
          merge_states(tile.rows, head_size, partial, total);
        }
        write_output(call, tile, kv_head, total);
      });
}

void Attention::Impl::run_partitions(const AttentionCall& call) {
  const int64_t kv_heads = call.kv.key.dim(2);
  partition_ends_.clear();
  int64_t partitions = 0;
  for (const QueryTile& tile : tiles_) {
    for (int64_t head = 0; head < kv_heads; ++head) {
      partition_ends_.push_back(partitions += tile.partitions);
    }
  }
  const int64_t wave_size = static_cast<int64_t>(partial_.size());
  for (int64_t wave = 0; wave < partitions; wave += wave_size) {
    pool_.parallel_for(std::min(wave_size, partitions - wave), [&](int64_t i, int worker) {
      const auto end = std::upper_bound(partition_ends_.begin(), partition_ends_.end(), wave + i);
      const int64_t index = end - partition_ends_.begin();
      const QueryTile& tile = tiles_[static_cast<size_t>(index / kv_heads)];
      const int partition =
          tile.first_partition + tile.partitions - static_cast<int>(*end - (wave + i));
      attend_partition(call, tile, static_cast<int>(index % kv_heads), partition,
                       scratch_[static_cast<size_t>(worker)], partial_[static_cast<size_t>(i)]);
    });
    pool_.parallel_for(static_cast<int64_t>(partition_ends_.size()),
                       [&](int64_t index, int) { merge_wave(call, index, wave); });
  }
}

void Attention::Impl::merge_wave(const AttentionCall& call, int64_t index, int64_t wave) {
  const int64_t kv_heads = call.kv.key.dim(2);
  const int head_size = static_cast<int>(call.q.dim(2));
  const QueryTile& tile = tiles_[static_cast<size_t>(index / kv_heads)];
  const SoftmaxState& total = total_[static_cast<size_t>(index)];
  const int64_t end = partition_ends_[static_cast<size_t>(index)];
  const int64_t begin = end - tile.partitions;
  const int64_t wave_end = wave + static_cast<int64_t>(partial_.size());
  if (begin >= wave) clear_state(tile.rows, head_size, total);
  for (int64_t i = std::max(begin, wave); i < std::min(end, wave_end); ++i) {
    merge_states(tile.rows, head_size, partial_[static_cast<size_t>(i - wave)], total);
  }
  if (wave < end && end <= wave_end) {
    write_output(call, tile, static_cast<int>(index % kv_heads), total);
  }
}

Attention::Attention(ThreadPool& pool) : impl_(std::make_unique<Impl>(pool)) {}

Attention::~Attention() = default;

void Attention::operator()(const Tensor& q, const PagedKv& kv, const AttentionBatch& batch,
                           const AttentionOptions& options, const Tensor& out) {
  impl_->run({q, kv, batch, options, out});
}

}  // namespace lorax::cpu
