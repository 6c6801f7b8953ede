#include "device/cpu/attention_tile.h"

#include <algorithm>
#include <array>
#include <limits>
#include <type_traits>
#include <utility>

#include "device/cpu/visit_dtype.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "device/cpu/attention_tile.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h: compiled once per instruction set.
#include "device/cpu/attention_products-inl.h"
#include "device/cpu/simd-inl.h"

#ifndef LORAX_DEVICE_CPU_ATTENTION_TILE_ONCE
#define LORAX_DEVICE_CPU_ATTENTION_TILE_ONCE
namespace lorax::cpu {
namespace {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

// Key positions [begin, end).
struct KeyRange {
  int64_t begin = 0;
  int64_t end = 0;
};

// The keys that a row of the tile sees. Both ends grow with the row.
class Visibility {
 public:
  Visibility(const AttentionCall& call, const QueryTile& tile)
      : group_(call.group()), window_(call.options.window), first_row_(tile.first_row) {
    const int32_t* cu_seqlens = call.batch.cu_seqlens_q.as<int32_t>() + tile.sequence;
    const int query_rows = cu_seqlens[1] - cu_seqlens[0];
    first_position_ = call.batch.kv_lengths.as<int32_t>()[tile.sequence] - query_rows;
  }

  KeyRange of_row(int row) const {
    const int64_t position = first_position_ + (first_row_ + row) / group_;
    return {window_ > 0 ? std::max<int64_t>(0, position - window_ + 1) : 0, position + 1};
  }

 private:
  int group_;
  int window_;
  int first_row_;
  int64_t first_position_;
};

}  // namespace
}  // namespace lorax::cpu
#endif  // LORAX_DEVICE_CPU_ATTENTION_TILE_ONCE

HWY_BEFORE_NAMESPACE();
namespace lorax::cpu::HWY_NAMESPACE {
namespace {

// Keys whose dot products are taken with all rows before the next keys, to stay in the first cache.
constexpr int kHotKeys = 16;

// D: a tag of float vectors, two of which divide the head size. T: the model dtype.
// Scratch and states hold the elements of a head in the order of load_pair().
template <class D, typename T>
class PartitionKernel {
 public:
  PartitionKernel(const AttentionCall& call, const QueryTile& tile, int kv_head,
                  const TileScratch& scratch, const SoftmaxState& state)
      : call_(call),
        tile_(tile),
        kv_head_(kv_head),
        scratch_(scratch),
        state_(state),
        head_size_(static_cast<int>(call.q.dim(2))),
        visibility_(call, tile) {}

  void run(int partition) {
    clear_state(tile_.rows, head_size_, state_);
    load_queries();
    const int64_t partition_begin = int64_t{partition} * kPartitionPositions;
    const int64_t begin = std::max(partition_begin, visibility_.of_row(0).begin);
    const int64_t end =
        std::min(partition_begin + kPartitionPositions, visibility_.of_row(tile_.rows - 1).end);
    int64_t base = begin / kTilePositions * kTilePositions;
    TilePages* pages = &pages_[0];
    TilePages* next = &pages_[1];
    find_pages(base, *pages);
    for (; base < end; base += kTilePositions) {
      if (base + kTilePositions < end) {
        find_pages(base + kTilePositions, *next);
      } else {
        next = pages;  // to prefetch; nothing comes after
      }
      add_tile(base, *pages, *next);
      std::swap(pages, next);
    }
  }

 private:
  // A row's visible keys within a tile: [begin, end) of [0, kTilePositions). Both ends grow with
  // the row.
  struct Span {
    int begin = 0;
    int end = 0;
  };

  void load_queries() {
    const int group = call_.group();
    const int first_query = call_.batch.cu_seqlens_q.as<int32_t>()[tile_.sequence];
    for (int row = 0; row < tile_.rows; ++row) {
      const int64_t query = first_query + (tile_.first_row + row) / group;
      const int64_t head = int64_t{kv_head_} * group + (tile_.first_row + row) % group;
      copy_row(call_.q.as<T>() + query * call_.q.stride(0) + head * call_.q.stride(1),
               scratch_.queries + row * head_size_);
    }
  }

  void copy_row(const T* from, float* to) const {
    for (int i = 0; i < head_size_; i += 2 * kLanes) {
      hn::Vec<D> first, second;
      load_pair(kD, from + i, first, second);
      hn::StoreU(first, kD, to + i);
      hn::StoreU(second, kD, to + i + kLanes);
    }
  }

  // Where a tile's keys and values lie. Those that no row sees point to one that is seen.
  struct TilePages {
    Span seen;  // by some row
    std::array<const T*, kTilePositions> keys;
    std::array<const T*, kTilePositions> values;
  };

  Span span_of(int row, int64_t base) const {
    const KeyRange keys = visibility_.of_row(row);
    return {static_cast<int>(std::clamp<int64_t>(keys.begin - base, 0, kTilePositions)),
            static_cast<int>(std::clamp<int64_t>(keys.end - base, 0, kTilePositions))};
  }

  void find_pages(int64_t base, TilePages& pages) const {
    const int32_t* table = call_.batch.block_tables.as<int32_t>() +
                           tile_.sequence * call_.batch.block_tables.stride(0);
    const int64_t block_size = call_.kv.key.dim(1);
    const int64_t row_stride = call_.kv.key.dim(2) * head_size_;
    const T* keys = call_.kv.key.as<T>() + kv_head_ * head_size_;
    const T* values = call_.kv.value.as<T>() + kv_head_ * head_size_;
    const Span seen = {span_of(0, base).begin, span_of(tile_.rows - 1, base).end};
    for (int j = seen.begin; j < seen.end;) {
      const int64_t block = (base + j) / block_size;
      const int block_end =
          static_cast<int>(std::min<int64_t>(seen.end, (block + 1) * block_size - base));
      int64_t offset = (table[block] * block_size + (base + j) % block_size) * row_stride;
      for (; j < block_end; ++j, offset += row_stride) {
        pages.keys[j] = keys + offset;
        pages.values[j] = values + offset;
      }
    }
    for (auto* rows : {&pages.keys, &pages.values}) {
      std::fill(rows->begin(), rows->begin() + seen.begin, (*rows)[seen.begin]);
      std::fill(rows->begin() + seen.end, rows->end(), (*rows)[seen.begin]);
    }
    pages.seen = seen;
  }

  // Adds a tile's keys to the state. `next` is the tile after it, which will be read soon.
  void add_tile(int64_t base, const TilePages& pages, const TilePages& next) {
    for (int row = 0; row < tile_.rows; ++row) spans_[row] = span_of(row, base);
    // Rows that pass over the keys together read them from the pages; more rows than that are worth
    // a copy, converted once and packed.
    if (tile_.rows <= kBlockRows) {
      add_keys_from_pages(pages, next);
    } else {
      copy_pages(pages);
      add_copied_keys(pages.seen);
    }
  }

  // Both are bound by memory: while keys are multiplied their values are fetched, and while values
  // are added the next tile's keys.
  void add_keys_from_pages(const TilePages& pages, const TilePages& next) {
    for_blocks([&]<int R>(std::integral_constant<int, R>, int row) HWY_ATTR {
      for (int j = pages.seen.begin / kBlockColumns * kBlockColumns; j < pages.seen.end;
           j += kBlockColumns) {
        prefetch(&pages.values[j]);
        dot_block<R>(kD, head_size_, query(row), &pages.keys[j], scores(row) + j);
      }
    });
    for (int row = 0; row < tile_.rows; ++row) softmax_row(row);
    for_blocks_and_spans([&]<int R>(std::integral_constant<int, R>, int row, Span span) HWY_ATTR {
      int j = span.begin;
      for (; j + kBlockColumns <= span.end; j += kBlockColumns) {
        prefetch(&next.keys[j]);
        weigh_rows<R, kBlockColumns>(kD, head_size_, scores(row) + j, &pages.values[j],
                                     weighted(row));
      }
      for (; j < span.end; ++j) {
        weigh_rows<R, 1>(kD, head_size_, scores(row) + j, &pages.values[j], weighted(row));
      }
    });
  }

  // Brings kBlockColumns rows of the pages to the second cache. The rows of one head often lie a
  // power of two apart and would push each other out of the first.
  HWY_INLINE void prefetch(const T* const* rows) const {
    for (int k = 0; k < kBlockColumns; ++k) {
      const char* row = reinterpret_cast<const char*>(rows[k]);
      const int bytes = head_size_ * static_cast<int>(sizeof(T));
      for (int i = 0; i < bytes; i += 64) __builtin_prefetch(row + i, /*rw=*/0, /*locality=*/2);
    }
  }

  void copy_pages(const TilePages& pages) {
    for (int j = 0; j < kTilePositions; ++j) {
      const bool seen = pages.seen.begin <= j && j < pages.seen.end;
      const int source = seen ? j : pages.seen.begin;
      copied_keys_[j] = scratch_.keys + source * TileScratch::kRowStride;
      copied_values_[j] = scratch_.values + source * TileScratch::kRowStride;
    }
    for (int j = pages.seen.begin; j < pages.seen.end; ++j) {
      copy_row(pages.keys[j], scratch_.keys + j * TileScratch::kRowStride);
      copy_row(pages.values[j], scratch_.values + j * TileScratch::kRowStride);
    }
  }

  void add_copied_keys(Span seen) {
    for (int hot = seen.begin / kHotKeys * kHotKeys; hot < seen.end; hot += kHotKeys) {
      for_blocks([&]<int R>(std::integral_constant<int, R>, int row) HWY_ATTR {
        const int begin = std::max(hot, spans_[row].begin / kBlockColumns * kBlockColumns);
        const int end = std::min(hot + kHotKeys, spans_[row + R - 1].end);
        for (int j = begin; j < end; j += kBlockColumns) {
          dot_block<R>(kD, head_size_, query(row), &copied_keys_[j], scores(row) + j);
        }
      });
    }
    for (int row = 0; row < tile_.rows; ++row) softmax_row(row);
    int column = 0;
    for (; column + kBlockColumns * kLanes <= head_size_; column += kBlockColumns * kLanes) {
      add_copied_columns<kBlockColumns>(column);
    }
    for (; column < head_size_; column += 2 * kLanes) add_copied_columns<2>(column);
  }

  // N vectors of columns from `column` on.
  template <int N>
  HWY_INLINE void add_copied_columns(int column) {
    for_blocks_and_spans([&]<int R>(std::integral_constant<int, R>, int row, Span span) HWY_ATTR {
      if (span.begin >= span.end) return;
      weigh_columns<R, N>(kD, head_size_, column, span.end - span.begin, scores(row) + span.begin,
                          &copied_values_[span.begin], weighted(row));
    });
  }

  // Calls function(std::integral_constant<int, R>, row) for blocks of R rows from `row` on.
  template <typename Function>
  HWY_INLINE void for_blocks(const Function& function) const {
    int row = 0;
    for (; row + kBlockRows <= tile_.rows; row += kBlockRows) {
      function(std::integral_constant<int, kBlockRows>(), row);
    }
    if (tile_.rows - row == 2) function(std::integral_constant<int, 2>(), row);
    if (tile_.rows - row == 1) function(std::integral_constant<int, 1>(), row);
  }

  // Turns the row's scores into exp(score - max) and brings its state to the new maximum.
  void softmax_row(int row) {
    const Span span = spans_[row];
    if (span.begin >= span.end) return;
    float* scores = this->scores(row);
    const int first = span.begin / kLanes * kLanes;

    auto top = hn::Set(kD, kNegativeInfinity);
    for (int j = first; j < span.end; j += kLanes) {
      const auto index = hn::Iota(kD, static_cast<float>(j));
      const auto visible = hn::And(hn::Ge(index, hn::Set(kD, static_cast<float>(span.begin))),
                                   hn::Lt(index, hn::Set(kD, static_cast<float>(span.end))));
      const auto score = hn::IfThenElse(visible, scaled(hn::LoadU(kD, scores + j)),
                                        hn::Set(kD, kNegativeInfinity));
      hn::StoreU(score, kD, scores + j);
      top = hn::Max(top, score);
    }
    const float old_max = state_.max[row];
    const float new_max = std::max(old_max, max_of_lanes(kD, top));
    // If all scores so far are -infinity, exp(score - 0) = 0 is meant, not the NaN of their
    // difference.
    const float reference = new_max == kNegativeInfinity ? 0.0f : new_max;

    auto sum = hn::Zero(kD);
    for (int j = first; j < span.end; j += kLanes) {
      const auto weight =
          exp_of_negative(kD, hn::Sub(hn::LoadU(kD, scores + j), hn::Set(kD, reference)));
      hn::StoreU(weight, kD, scores + j);
      sum = hn::Add(sum, weight);
    }
    const float correction = exp_of_negative(old_max - reference);
    state_.max[row] = new_max;
    state_.sum[row] = state_.sum[row] * correction + hn::GetLane(hn::SumOfLanes(kD, sum));
    if (correction != 1.0f) scale_row(weighted(row), correction);
  }

  HWY_INLINE hn::Vec<D> scaled(hn::Vec<D> score) const {
    const AttentionOptions& options = call_.options;
    if (options.softcap == 0.0f) return hn::Mul(score, hn::Set(kD, options.scale));
    const auto ratio = hn::Mul(score, hn::Set(kD, options.scale / options.softcap));
    return hn::Mul(hn::Tanh(kD, ratio), hn::Set(kD, options.softcap));
  }

  void scale_row(float* values, float factor) const {
    for (int i = 0; i < head_size_; i += kLanes) {
      hn::StoreU(hn::Mul(hn::LoadU(kD, values + i), hn::Set(kD, factor)), kD, values + i);
    }
  }

  // Calls function(std::integral_constant<int, R>, row, span) for blocks of R rows and the keys
  // that all of them see, and row by row for the keys that only some of them see; in the order of
  // keys.
  template <typename Function>
  HWY_INLINE void for_blocks_and_spans(const Function& function) const {
    for_blocks([&]<int R>(std::integral_constant<int, R> size, int row) HWY_ATTR {
      const std::integral_constant<int, 1> one;
      const int begin = spans_[row + R - 1].begin;
      const int end = std::max(begin, spans_[row].end);
      if constexpr (R > 1) {
        for (int r = row; r < row + R; ++r) {
          function(one, r, Span{spans_[r].begin, std::min(begin, spans_[r].end)});
        }
      }
      function(size, row, Span{begin, end});
      if constexpr (R > 1) {
        for (int r = row; r < row + R; ++r) {
          function(one, r, Span{std::max(end, spans_[r].begin), spans_[r].end});
        }
      }
    });
  }

  const float* query(int row) const { return scratch_.queries + row * head_size_; }
  float* scores(int row) const { return scratch_.scores + row * kTilePositions; }
  float* weighted(int row) const { return state_.weighted + row * head_size_; }

  static constexpr D kD{};
  static constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));

  const AttentionCall& call_;
  const QueryTile& tile_;
  const int kv_head_;
  const TileScratch& scratch_;
  const SoftmaxState& state_;
  const int head_size_;
  const Visibility visibility_;

  // Of the tile at hand:
  std::array<Span, kTileRows> spans_;
  TilePages pages_[2];
  std::array<const float*, kTilePositions> copied_keys_;
  std::array<const float*, kTilePositions> copied_values_;
};

// Calls function(D()) with the widest vectors, two of which divide the head size, a multiple of 8.
template <typename Function>
HWY_INLINE void visit_vectors(int head_size, const Function& function) {
  if (head_size % 32 == 0) {
    function(hn::CappedTag<float, 16>());
  } else if (head_size % 16 == 0) {
    function(hn::CappedTag<float, 8>());
  } else {
    function(hn::CappedTag<float, 4>());
  }
}

void attend_partition_simd(const AttentionCall& call, const QueryTile& tile, int kv_head,
                           int partition, const TileScratch& scratch, const SoftmaxState& state) {
  visit_vectors(static_cast<int>(call.q.dim(2)), [&]<class D>(D) HWY_ATTR {
    visit_model_dtype(call.q.dtype, [&]<typename T>(std::type_identity<T>) HWY_ATTR {
      PartitionKernel<D, T>(call, tile, kv_head, scratch, state).run(partition);
    });
  });
}

void merge_states_simd(int rows, int head_size, const SoftmaxState& later,
                       const SoftmaxState& state) {
  for (int row = 0; row < rows; ++row) {
    // A row without keys on one side takes the other as it is, to the last bit.
    if (later.sum[row] == 0.0f) continue;
    float* values = state.weighted + row * head_size;
    const float* added = later.weighted + row * head_size;
    if (state.sum[row] == 0.0f) {
      std::copy_n(added, head_size, values);
      state.max[row] = later.max[row];
      state.sum[row] = later.sum[row];
      continue;
    }
    const float max = std::max(state.max[row], later.max[row]);
    const float old_factor = exp_of_negative(state.max[row] - max);
    const float added_factor = exp_of_negative(later.max[row] - max);
    state.max[row] = max;
    state.sum[row] = state.sum[row] * old_factor + later.sum[row] * added_factor;
    for_each_vector(0, head_size, [&](auto d, int64_t i) HWY_ATTR {
      const auto old = hn::Mul(load(d, values + i), hn::Set(d, old_factor));
      store(d, hn::MulAdd(load(d, added + i), hn::Set(d, added_factor), old), values + i);
    });
  }
}

void write_output_simd(const AttentionCall& call, const QueryTile& tile, int kv_head,
                       const SoftmaxState& state) {
  const int group = call.group();
  const int head_size = static_cast<int>(call.q.dim(2));
  const int first_query = call.batch.cu_seqlens_q.as<int32_t>()[tile.sequence];
  visit_vectors(head_size, [&]<class D>(D d) HWY_ATTR {
    visit_model_dtype(call.out.dtype, [&]<typename T>(std::type_identity<T>) HWY_ATTR {
      constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
      for (int row = 0; row < tile.rows; ++row) {
        const int64_t query = first_query + (tile.first_row + row) / group;
        const int64_t head = int64_t{kv_head} * group + (tile.first_row + row) % group;
        const float* weighted = state.weighted + row * head_size;
        const auto factor = hn::Set(d, 1.0f / state.sum[row]);
        T* out = call.out.as<T>() + query * call.out.stride(0) + head * call.out.stride(1);
        for (int i = 0; i < head_size; i += 2 * kLanes) {
          store_pair(d, hn::Mul(load(d, weighted + i), factor),
                     hn::Mul(load(d, weighted + i + kLanes), factor), out + i);
        }
      }
    });
  });
}

}  // namespace
}  // namespace lorax::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorax::cpu {

HWY_EXPORT(attend_partition_simd);
HWY_EXPORT(merge_states_simd);
HWY_EXPORT(write_output_simd);

QueryTile make_query_tile(const AttentionCall& call, int sequence, int first_row, int rows) {
  QueryTile tile{.sequence = sequence, .first_row = first_row, .rows = rows};
  const Visibility visibility(call, tile);
  const int64_t begin = visibility.of_row(0).begin;
  const int64_t end = visibility.of_row(rows - 1).end;
  tile.first_partition = static_cast<int>(begin / kPartitionPositions);
  tile.partitions = static_cast<int>((end - 1) / kPartitionPositions) - tile.first_partition + 1;
  return tile;
}

void clear_state(int rows, int head_size, const SoftmaxState& state) {
  std::fill_n(state.max, rows, kNegativeInfinity);
  std::fill_n(state.sum, rows, 0.0f);
  std::fill_n(state.weighted, rows * head_size, 0.0f);
}

void attend_partition(const AttentionCall& call, const QueryTile& tile, int kv_head, int partition,
                      const TileScratch& scratch, const SoftmaxState& state) {
  HWY_DYNAMIC_DISPATCH(attend_partition_simd)(call, tile, kv_head, partition, scratch, state);
}

void merge_states(int rows, int head_size, const SoftmaxState& later, const SoftmaxState& state) {
  HWY_DYNAMIC_DISPATCH(merge_states_simd)(rows, head_size, later, state);
}

void write_output(const AttentionCall& call, const QueryTile& tile, int kv_head,
                  const SoftmaxState& state) {
  HWY_DYNAMIC_DISPATCH(write_output_simd)(call, tile, kv_head, state);
}

}  // namespace lorax::cpu
#endif  // HWY_ONCE
