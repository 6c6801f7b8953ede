// The two products of attention, queries times keys and weights times values, for a few rows at a
// time. Compiled once per instruction set. Every sum of one row is made in the same order whatever
// the number of rows, so its bits do not depend on it.
#if defined(LORAX_DEVICE_CPU_ATTENTION_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORAX_DEVICE_CPU_ATTENTION_PRODUCTS_INL_H_
#undef LORAX_DEVICE_CPU_ATTENTION_PRODUCTS_INL_H_
#else
#define LORAX_DEVICE_CPU_ATTENTION_PRODUCTS_INL_H_
#endif

#include <algorithm>

#include "device/cpu/attention_tile.h"
#include "device/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorax::cpu::HWY_NAMESPACE {

// Below, D is a tag of float vectors, two of which divide the head size. Queries and weighted sums
// are rows of head_size floats, keys and values come as pointers to rows: of floats, all in the
// order of load_pair(), or of 16-bit elements in their own order, which are loaded by it.
//
// The rows that are kept in registers, and the keys or vectors beside them: 3 x 4 sums fill the
// registers of AVX2 and hide the latency of its multiply-adds.
inline constexpr int kBlockRows = 3;
inline constexpr int kBlockColumns = 4;

// The vectors that one load brings.
template <typename Element>
inline constexpr int kRun = 1;
template <>
inline constexpr int kRun<BFloat16> = 2;

template <class D>
HWY_INLINE void load_run(D d, const float* from, hn::Vec<D> (&run)[1]) {
  run[0] = hn::LoadU(d, from);
}
template <class D>
HWY_INLINE void load_run(D d, const Float16* from, hn::Vec<D> (&run)[1]) {
  run[0] = load(d, from);
}
template <class D>
HWY_INLINE void load_run(D d, const BFloat16* from, hn::Vec<D> (&run)[2]) {
  load_pair(d, from, run[0], run[1]);
}

// {sum of a's lanes, of b's, of c's, of e's}.
template <class D, class V = hn::Vec<D>>
HWY_INLINE hn::Vec<hn::CappedTag<float, 4>> sum_lanes_of_4(D d, V a, V b, V c, V e) {
  if constexpr (hn::MaxLanes(D()) > 4) {
    const hn::Half<D> half;
    return sum_lanes_of_4(half, hn::Add(hn::LowerHalf(half, a), hn::UpperHalf(half, a)),
                          hn::Add(hn::LowerHalf(half, b), hn::UpperHalf(half, b)),
                          hn::Add(hn::LowerHalf(half, c), hn::UpperHalf(half, c)),
                          hn::Add(hn::LowerHalf(half, e), hn::UpperHalf(half, e)));
  } else {
    const hn::Repartition<double, D> d64;
    const V ab = hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
    const V ce = hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e));
    const auto ab64 = hn::BitCast(d64, ab), ce64 = hn::BitCast(d64, ce);
    return hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, ab64, ce64)),
                   hn::BitCast(d, hn::InterleaveUpper(d64, ab64, ce64)));
  }
}

// scores[r][k] = queries[r] . keys[k] for R rows and kBlockColumns keys.
template <int R, class D, typename Element>
HWY_INLINE void dot_block(D d, int head_size, const float* queries, const Element* const* keys,
                          float* scores) {
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
  const Element* key_rows[kBlockColumns];
  std::copy_n(keys, kBlockColumns, key_rows);
  hn::Vec<D> sums[R][kBlockColumns];
  for (auto& row_sums : sums) {
    for (auto& sum : row_sums) sum = hn::Zero(d);
  }
  for (int i = 0; i < head_size; i += kRun<Element> * kLanes) {
    hn::Vec<D> query[kRun<Element>][R];
    for (int n = 0; n < kRun<Element>; ++n) {
      for (int r = 0; r < R; ++r) {
        query[n][r] = hn::LoadU(d, queries + r * head_size + i + n * kLanes);
      }
    }
    for (int k = 0; k < kBlockColumns; ++k) {
      hn::Vec<D> key[kRun<Element>];
      load_run(d, key_rows[k] + i, key);
      for (int n = 0; n < kRun<Element>; ++n) {
        for (int r = 0; r < R; ++r) sums[r][k] = hn::MulAdd(query[n][r], key[n], sums[r][k]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    hn::StoreU(sum_lanes_of_4(d, sums[r][0], sums[r][1], sums[r][2], sums[r][3]),
               hn::CappedTag<float, 4>(), scores + r * kTilePositions);
  }
}

// weighted[r] += weights[r][k] * values[k] for R rows and K keys: values are read once and whole.
template <int R, int K, class D, typename Element>
HWY_INLINE void weigh_rows(D d, int head_size, const float* weights, const Element* const* values,
                           float* weighted) {
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
  const Element* value_rows[K];
  std::copy_n(values, K, value_rows);
  hn::Vec<D> weight[R][K];
  for (int r = 0; r < R; ++r) {
    for (int k = 0; k < K; ++k) weight[r][k] = hn::Set(d, weights[r * kTilePositions + k]);
  }
  for (int i = 0; i < head_size; i += kRun<Element> * kLanes) {
    hn::Vec<D> sums[R][kRun<Element>];
    for (int r = 0; r < R; ++r) {
      for (int n = 0; n < kRun<Element>; ++n) {
        sums[r][n] = hn::LoadU(d, weighted + r * head_size + i + n * kLanes);
      }
    }
    for (int k = 0; k < K; ++k) {
      hn::Vec<D> value[kRun<Element>];
      load_run(d, value_rows[k] + i, value);
      for (int n = 0; n < kRun<Element>; ++n) {
        for (int r = 0; r < R; ++r) sums[r][n] = hn::MulAdd(weight[r][k], value[n], sums[r][n]);
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int n = 0; n < kRun<Element>; ++n) {
        hn::StoreU(sums[r][n], d, weighted + r * head_size + i + n * kLanes);
      }
    }
  }
}

// weighted[r] += weights[r][k] * values[k] for R rows, `keys` keys and N vectors of columns from
// `column` on: sums stay in registers, the columns of the values in the first cache.
template <int R, int N, class D>
HWY_INLINE void weigh_columns(D d, int head_size, int column, int keys, const float* weights,
                              const float* const* values, float* weighted) {
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
  hn::Vec<D> sums[R][N];
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) {
      sums[r][n] = hn::LoadU(d, weighted + r * head_size + column + n * kLanes);
    }
  }
  for (int k = 0; k < keys; ++k) {
    hn::Vec<D> weight[R];
    for (int r = 0; r < R; ++r) weight[r] = hn::Set(d, weights[r * kTilePositions + k]);
    for (int n = 0; n < N; ++n) {
      const auto value = hn::LoadU(d, values[k] + column + n * kLanes);
      for (int r = 0; r < R; ++r) sums[r][n] = hn::MulAdd(weight[r], value, sums[r][n]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) {
      hn::StoreU(sums[r][n], d, weighted + r * head_size + column + n * kLanes);
    }
  }
}

}  // namespace lorax::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // LORAX_DEVICE_CPU_ATTENTION_PRODUCTS_INL_H_
