// Products by AVX-512 BF16. This file is compiled for that instruction set whatever the rest of the
// program is compiled for, so it must hold no inline function that another file could also emit:
// the linker keeps one of them for all. Hence intrinsics, functions of this file and plain loops
// only.
#include "device/cpu/matmul_kernel.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace lorax::cpu {
namespace {

constexpr int kRows = 6;         // of a tile: 6 x 4 sums and their operands fill 32 registers
constexpr int64_t kLanes = 32;   // elements of a vector
constexpr int64_t kElement = 2;  // bytes

// Columns of a tile of `rows` rows: a divisor of MatmulKernel::kColumns.
constexpr int tile_columns(int rows) { return rows >= 5 ? 4 : rows == 4 ? 6 : rows == 3 ? 8 : 12; }

__m512bh load(const char* from) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(from)); }

// The first `count` elements, fewer than kLanes, and zeros.
__m512bh load_part(const char* from, int64_t count) {
  const __mmask32 mask = (uint32_t{1} << count) - 1;
  return reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(mask, from));
}

// sums[r][c] += x[r] at i times weights[c]. The fewer operands are held in registers, the others
// pass by.
template <int kR, int kC, typename Weights>
inline __attribute__((always_inline)) void add_products(const char* const (&x)[kR], int64_t i,
                                                        const Weights& weights,
                                                        __m512 (&sums)[kR][kC]) {
  if constexpr (kR < kC) {
    __m512bh xs[kR];
    for (int r = 0; r < kR; ++r) xs[r] = load(x[r] + i * kElement);
    for (int c = 0; c < kC; ++c) {
      const __m512bh w = weights(c);
      for (int r = 0; r < kR; ++r) sums[r][c] = _mm512_dpbf16_ps(sums[r][c], xs[r], w);
    }
  } else {
    __m512bh w[kC];
    for (int c = 0; c < kC; ++c) w[c] = weights(c);
    for (int r = 0; r < kR; ++r) {
      const __m512bh xs = load(x[r] + i * kElement);
      for (int c = 0; c < kC; ++c) sums[r][c] = _mm512_dpbf16_ps(sums[r][c], xs, w[c]);
    }
  }
}

// {sum of a's lanes, of b's, of c's, of d's}: each through the same additions.
inline __m128 sum_lanes(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 quarters =
      _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 halves =
      _mm256_add_ps(_mm512_castps512_ps256(quarters), _mm512_extractf32x8_ps(quarters, 1));
  return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}

template <int kC>
inline void store_sums(const __m512 (&sums)[kC], float* out, bool add) {
  const __m512 zero = _mm512_setzero_ps();
  for (int c = 0; c < kC; c += 4) {
    __m128 totals = sum_lanes(sums[c], c + 1 < kC ? sums[c + 1] : zero,
                              c + 2 < kC ? sums[c + 2] : zero, c + 3 < kC ? sums[c + 3] : zero);
    const __mmask8 mask = kC - c >= 4 ? 0xf : (1 << (kC - c)) - 1;
    if (add) totals = _mm_add_ps(_mm_maskz_loadu_ps(mask, out + c), totals);
    _mm_mask_storeu_ps(out + c, mask, totals);
  }
}

// The next block is prefetched while this one is multiplied: the tiles of one column share its
// columns' elements evenly.
struct Prefetch {
  int64_t begin;  // bytes from this block's weights
  int64_t step;   // bytes per turn of the inner loop
};

template <int kR, int kC>
inline void multiply_tile(const MatmulBlock& block, int64_t row, int64_t column,
                          Prefetch prefetch) {
  const char* x[kR];
  const char* w[kC];
  __m512 sums[kR][kC];
  for (int r = 0; r < kR; ++r)
    x[r] = static_cast<const char*>(block.x) + (row + r) * block.x_stride;
  for (int c = 0; c < kC; ++c) {
    w[c] = static_cast<const char*>(block.weight) + (column + c) * block.weight_stride;
    for (int r = 0; r < kR; ++r) sums[r][c] = _mm512_setzero_ps();
  }
  int64_t i = 0;
  for (; i + kLanes <= block.count; i += kLanes) {
    for (int c = 0; c < kC; ++c) _mm_prefetch(w[c] + prefetch.begin, _MM_HINT_T0);
    prefetch.begin += prefetch.step;
    add_products<kR, kC>(
        x, i, [&](int c) { return load(w[c] + i * kElement); }, sums);
  }
  if (i < block.count) {
    const int64_t rest = block.count - i;
    add_products<kR, kC>(
        x, i, [&](int c) { return load_part(w[c] + i * kElement, rest); }, sums);
  }
  for (int r = 0; r < kR; ++r) {
    store_sums(sums[r], block.sums + (row + r) * block.sums_stride + column, block.add);
  }
}

template <int kR>
void multiply_rows(const MatmulBlock& block, int64_t row, Prefetch prefetch) {
  constexpr int kC = tile_columns(kR);
  int64_t column = 0;
  for (; column + kC <= block.columns; column += kC) {
    multiply_tile<kR, kC>(block, row, column, prefetch);
  }
  for (; column < block.columns; ++column) multiply_tile<kR, 1>(block, row, column, prefetch);
}

// Rows outside, columns inside: a tile's rows of x stay in the first cache for all columns, whose
// weights stay in the second for all rows.
void multiply(const MatmulBlock& block) {
  const int64_t tiles = (block.rows + kRows - 1) / kRows;
  const int64_t distance =
      static_cast<const char*>(block.next_weight) - static_cast<const char*>(block.weight);
  Prefetch prefetch = {distance, kLanes * kElement / (distance != 0 ? tiles : 1)};
  const int64_t share = block.count / kLanes * prefetch.step;
  int64_t row = 0;
  for (; row + kRows <= block.rows; row += kRows) {
    multiply_rows<kRows>(block, row, prefetch);
    if (distance != 0) prefetch.begin += share;
  }
  switch (block.rows - row) {
    case 5:
      multiply_rows<5>(block, row, prefetch);
      break;
    case 4:
      multiply_rows<4>(block, row, prefetch);
      break;
    case 3:
      multiply_rows<3>(block, row, prefetch);
      break;
    case 2:
      multiply_rows<2>(block, row, prefetch);
      break;
    case 1:
      multiply_rows<1>(block, row, prefetch);
      break;
    default:
      break;
  }
}

// One column after the other, and of each one chunk after the other.
template <int kR>
void stream_rows(const MatmulStream& product) {
  for (int64_t column = 0; column < product.columns; ++column) {
    const char* w = static_cast<const char*>(product.weight) + column * product.weight_stride;
    const char* x[kR];
    for (int r = 0; r < kR; ++r) x[r] = static_cast<const char*>(product.x) + r * product.x_stride;
    for (int64_t begin = 0; begin < product.count; begin += product.chunk) {
      const int64_t rest = product.count - begin;
      const int64_t count = rest < product.chunk ? rest : product.chunk;
      __m512 sums[kR][1];
      for (int r = 0; r < kR; ++r) sums[r][0] = _mm512_setzero_ps();
      int64_t i = 0;
      for (; i + kLanes <= count; i += kLanes) {
        add_products<kR, 1>(
            x, i, [&](int) { return load(w + i * kElement); }, sums);
      }
      if (i < count) {
        add_products<kR, 1>(
            x, i, [&](int) { return load_part(w + i * kElement, count - i); }, sums);
      }
      for (int r = 0; r < kR; ++r) {
        store_sums(sums[r], product.sums + r * product.sums_stride + column, begin > 0);
        x[r] += product.chunk_stride;
      }
      w += count * kElement;
    }
  }
}

void stream(const MatmulStream& product) {
  switch (product.rows) {
    case 1:
      return stream_rows<1>(product);
    case 2:
      return stream_rows<2>(product);
    case 3:
      return stream_rows<3>(product);
    default:
      return stream_rows<4>(product);
  }
}

void prepare(const void* x, int64_t count, void* prepared) {
  const char* from = static_cast<const char*>(x);
  char* to = static_cast<char*>(prepared);
  const int64_t padded =
      (count + MatmulKernel::kGroup - 1) / MatmulKernel::kGroup * MatmulKernel::kGroup;
  for (int64_t i = 0; i < padded; i += kLanes) {
    const int64_t rest = count - i;
    const __m512bh part = rest >= kLanes ? load(from + i * kElement)
                                         : load_part(from + i * kElement, rest < 0 ? 0 : rest);
    _mm512_storeu_si512(to + i * kElement, reinterpret_cast<__m512i>(part));
  }
}

}  // namespace

extern constexpr MatmulKernel kAvx512Bf16MatmulKernel = {"AVX-512 BF16", DType::kBFloat16, kElement,
                                                         prepare,        multiply,         stream};

}  // namespace lorax::cpu
#endif
