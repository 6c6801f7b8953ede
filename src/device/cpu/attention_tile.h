// The arithmetic of attention: softmax(scores) V for a tile of query rows, without ever holding all
// scores (online softmax as in FlashAttention, Dao et al. 2022; split over keys as Flash-Decoding).
//
// What a query row gets is defined by its own keys and their absolute positions alone:
//   * Positions are cut into partitions of kPartitionPositions, and these into tiles of
//     kTilePositions. Each partition yields a SoftmaxState, built tile by tile in ascending order.
//   * A tile adds the row's visible keys in ascending order; keys that the row does not see are
//     neither read nor added, so that nothing of them (not even a NaN) can reach it.
//   * States are merged in ascending order of partitions.
// So a row's bits are the same whether partitions run one after the other or on several threads,
// and whatever rows share its tile.
#pragma once

#include <cstdint>

#include "device/device.h"

namespace lorax::cpu {

inline constexpr int kTilePositions = 64;
inline constexpr int kPartitionPositions = 1024;
inline constexpr int kTileRows = 48;
inline constexpr int kMaxHeadSize = 256;

// One call of Device::attention.
struct AttentionCall {
  const Tensor& q;
  const PagedKv& kv;
  const AttentionBatch& batch;
  const AttentionOptions& options;
  const Tensor& out;

  // Query heads per key/value head.
  int group() const { return static_cast<int>(q.dim(1) / kv.key.dim(2)); }
};

// Rows of one sequence that are computed together, for one key/value head at a time. They count the
// pairs (query row, head of the group), heads innermost: row r is query row r / group of the
// sequence and member r % group of the heads that share the key/value head.
struct QueryTile {
  int sequence = 0;
  int first_row = 0;
  int rows = 0;  // at most kTileRows

  // The partitions that hold keys which some row sees.
  int first_partition = 0;
  int partitions = 0;
};

// The tile with its partitions filled in.
QueryTile make_query_tile(const AttentionCall& call, int sequence, int first_row, int rows);

// What a row knows after some of its keys: the largest score, the sum of exp(score - max) and the
// values weighted by these.
struct SoftmaxState {
  static constexpr int kFloats = kTileRows * (2 + kMaxHeadSize);
  explicit SoftmaxState(float* memory)
      : max(memory), sum(max + kTileRows), weighted(sum + kTileRows) {}

  float* max;       // [kTileRows]
  float* sum;       // [kTileRows]
  float* weighted;  // [kTileRows, d]
};

// What a thread needs while it works at a tile.
struct TileScratch {
  // Rows of copied keys and values are this far apart: a power of two would put all of them in the
  // same few sets of the cache.
  static constexpr int kRowStride = kMaxHeadSize + 16;
  static constexpr int kFloats =
      kTileRows * (kMaxHeadSize + kTilePositions) + 2 * kTilePositions * kRowStride;
  explicit TileScratch(float* memory)
      : queries(memory),
        scores(queries + kTileRows * kMaxHeadSize),
        keys(scores + kTileRows * kTilePositions),
        values(keys + kTilePositions * kRowStride) {}

  float* queries;  // [kTileRows, d]
  float* scores;   // [kTileRows, kTilePositions], then exp(score - max)
  float* keys;     // [kTilePositions, kRowStride]
  float* values;   // same
};

// Sets the rows to what they know without keys: -infinity, 0 and 0.
void clear_state(int rows, int head_size, const SoftmaxState& state);

// Sets `state` to that of the tile's rows over one partition.
void attend_partition(const AttentionCall& call, const QueryTile& tile, int kv_head, int partition,
                      const TileScratch& scratch, const SoftmaxState& state);

// Adds the state of a later partition to `state`.
void merge_states(int rows, int head_size, const SoftmaxState& later, const SoftmaxState& state);

// out = weighted / sum for the rows of the tile.
void write_output(const AttentionCall& call, const QueryTile& tile, int kv_head,
                  const SoftmaxState& state);

}  // namespace lorax::cpu
