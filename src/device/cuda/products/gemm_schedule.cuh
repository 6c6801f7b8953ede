// How gemm_hopper.cu shares its tiles out among the clusters of a persistent grid.
//
// Tiles of one band of rows are neighbours, column by column, so that what runs at a time reads few
// rows of x and of the weight, from the L2 cache. Whole rounds of a tile for each cluster are
// shared out as they come (data-parallel). What is left over, with the last whole round, is cut
// into as many equal ranges of k-tiles as there are clusters (stream-K; Osama and others, 2023),
// and comes first. So no cluster is idle at the end; a tile whose sums are cut is finished by the
// cluster that has its first k-tile, which adds what the others left in the order of the k-tiles.
#pragma once

#include <cuda_runtime.h>

namespace lorax::cuda {

// What a cluster does at a time: the k-tiles [begin, end) of a tile.
struct Piece {
  int tile;
  int begin;
  int end;
};

struct TileSchedule {
  int clusters;
  int row_tiles;     // of a cluster's rows
  int column_tiles;  // of a cluster's columns
  int k_tiles;
  int split_tiles;  // the first so many are cut into ranges of k-tiles
  int band;         // row tiles of a band

  static TileSchedule make(int clusters, int row_tiles, int column_tiles, int k_tiles) {
    constexpr int kBand = 8;  // 2,048 rows
    const int tiles = row_tiles * column_tiles;
    const int left = tiles % clusters;
    // A last round that fills nearly all clusters is not worth a cut.
    const bool cut = left * 10 < clusters * 9 && left > 0;
    return {clusters,
            row_tiles,
            column_tiles,
            k_tiles,
            !cut ? 0 : tiles < clusters ? tiles : left + clusters,
            kBand};
  }

  __host__ __device__ int tiles() const { return row_tiles * column_tiles; }

  // The first k-tile, counted through the tiles that are cut, of a cluster's range.
  __host__ __device__ int range_begin(int cluster) const {
    return static_cast<int>(static_cast<long long>(split_tiles) * k_tiles * cluster / clusters);
  }

  // Where a tile lies.
  __host__ __device__ void find(int tile, int& row_tile, int& column_tile) const {
    const int band_tiles = band * column_tiles;
    const int first = tile / band_tiles * band;
    const int rows = row_tiles - first < band ? row_tiles - first : band;
    const int place = tile % band_tiles;
    row_tile = first + place % rows;
    column_tile = place / rows;
  }
};

// The pieces of one cluster, in their order.
class Pieces {
 public:
  __host__ __device__ Pieces(const TileSchedule& schedule, int cluster)
      : schedule_(schedule),
        at_(schedule.range_begin(cluster)),
        end_(schedule.range_begin(cluster + 1)),
        tile_(schedule.split_tiles + cluster) {}

  __host__ __device__ bool next(Piece& piece) {
    if (at_ < end_) {
      piece.tile = at_ / schedule_.k_tiles;
      piece.begin = at_ % schedule_.k_tiles;
      piece.end = end_ - at_ < schedule_.k_tiles - piece.begin ? piece.begin + end_ - at_
                                                               : schedule_.k_tiles;
      at_ += piece.end - piece.begin;
      return true;
    }
    piece = {tile_, 0, schedule_.k_tiles};
    tile_ += schedule_.clusters;
    return piece.tile < schedule_.tiles();
  }

 private:
  const TileSchedule& schedule_;
  int at_;
  int end_;
  int tile_;
};

}  // namespace lorax::cuda
