// Products by AVX-512 BF16. This file is compiled for that instruction set whatever the rest of the
// program is compiled for, so it must hold no inline function that another file could also emit:
// the linker keeps one of them for all. Hence intrinsics, static functions and plain loops only.
#include "device/cpu/matmul_kernel.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace lorax::cpu {
namespace {

constexpr int kRows = 6;
constexpr int kColumns = 4;
constexpr int kColumnsOfOneRow = 8;
constexpr int64_t kLanes = 32;  // bfloat16 elements of a vector

__m512bh load(const char* from) {
  return reinterpret_cast<__m512bh>(_mm512_loadu_si512(from));
}

__m512bh load_part(const char* from, int64_t count) {
  const __mmask32 mask = static_cast<__mmask32>((uint64_t{1} << count) - 1);
  return reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(mask, from));
}

// The sums of four vectors. Every vector goes through the same additions.
__m128 add_up(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 quarters =
      _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 halves = _mm256_add_ps(_mm512_castps512_ps256(quarters),
                                      _mm512_extractf32x8_ps(quarters, 1));
  return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}

template <int kC>
void store_sums(const __m512* sums, float* out, bool add) {
  const __m512 zero = _mm512_setzero_ps();
  for (int c = 0; c < kC; c += 4) {
    __m128 total = add_up(sums[c], c + 1 < kC ? sums[c + 1] : zero, c + 2 < kC ? sums[c + 2] : zero,
                          c + 3 < kC ? sums[c + 3] : zero);
    const __mmask8 mask = static_cast<__mmask8>(kC - c >= 4 ? 0xf : (1 << (kC - c)) - 1);
    if (add) total = _mm_add_ps(total, _mm_maskz_loadu_ps(mask, out + c));
    _mm_mask_storeu_ps(out + c, mask, total);
  }
}

template <int kR, int kC>
void multiply_tile(const MatmulBlock& block, int64_t row, int64_t column) {
  const char* x = static_cast<const char*>(block.x) + row * block.x_stride;
  const char* w = static_cast<const char*>(block.weight) + column * block.weight_stride;
  __m512 sums[kR][kC];
  for (int r = 0; r < kR; ++r) {
    for (int c = 0; c < kC; ++c) sums[r][c] = _mm512_setzero_ps();
  }
  int64_t i = 0;
  for (; i + kLanes <= block.count; i += kLanes) {
    __m512bh weights[kC];
    for (int c = 0; c < kC; ++c) {
      const char* from = w + c * block.weight_stride + 2 * i;
      // A decode step streams its weights: the same place in the rows of the next tile.
      if (kR == 1) _mm_prefetch(from + kC * block.weight_stride, _MM_HINT_T0);
      weights[c] = load(from);
    }
    for (int r = 0; r < kR; ++r) {
      const __m512bh xs = load(x + r * block.x_stride + 2 * i);
      for (int c = 0; c < kC; ++c) sums[r][c] = _mm512_dpbf16_ps(sums[r][c], xs, weights[c]);
    }
  }
  if (i < block.count) {
    for (int r = 0; r < kR; ++r) {
      const __m512bh xs = load(x + r * block.x_stride + 2 * i);
      for (int c = 0; c < kC; ++c) {
        sums[r][c] = _mm512_dpbf16_ps(
            sums[r][c], xs, load_part(w + c * block.weight_stride + 2 * i, block.count - i));
      }
    }
  }
  for (int r = 0; r < kR; ++r) {
    store_sums<kC>(sums[r], block.sums + (row + r) * block.sums_stride + column, block.add);
  }
}

template <int kR>
void multiply_rows(const MatmulBlock& block, int64_t row, int64_t column, int64_t columns) {
  constexpr int kC = kR == 1 ? kColumnsOfOneRow : kColumns;
  const int64_t end = block.columns < column + columns ? block.columns : column + columns;
  for (; column + kC <= end; column += kC) multiply_tile<kR, kC>(block, row, column);
  for (; column < end; ++column) multiply_tile<kR, 1>(block, row, column);
}

// Columns outside, rows inside: a tile's weights stay in the first cache for all rows.
void multiply(const MatmulBlock& block) {
  const int64_t columns = block.rows == 1 ? kColumnsOfOneRow : kColumns;
  for (int64_t column = 0; column < block.columns; column += columns) {
    int64_t row = 0;
    for (; row + kRows <= block.rows; row += kRows) {
      multiply_rows<kRows>(block, row, column, columns);
    }
    switch (block.rows - row) {
      case 5:
        multiply_rows<5>(block, row, column, columns);
        break;
      case 4:
        multiply_rows<4>(block, row, column, columns);
        break;
      case 3:
        multiply_rows<3>(block, row, column, columns);
        break;
      case 2:
        multiply_rows<2>(block, row, column, columns);
        break;
      case 1:
        multiply_rows<1>(block, row, column, columns);
        break;
      default:
        break;
    }
  }
}

void prepare(const void* x, int64_t count, void* prepared) {
  const char* from = static_cast<const char*>(x);
  char* to = static_cast<char*>(prepared);
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t left = count - i;
    const __m512bh part = left >= kLanes ? load(from + 2 * i) : load_part(from + 2 * i, left);
    _mm512_storeu_si512(to + 2 * i, reinterpret_cast<__m512i>(part));
  }
}

bool is_supported() {
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

constexpr MatmulKernel kKernel = {"AVX-512 BF16", DType::kBFloat16, 2, is_supported, prepare,
                                  multiply};

}  // namespace

const MatmulKernel& avx512_bf16_matmul_kernel() { return kKernel; }

}  // namespace lorax::cpu
#endif
