// Products in float32 on any processor. bfloat16 weights are widened in registers: of each 32-bit
// pair, the odd element is its upper half and the even one its lower half shifted up. So no shuffle
// is needed if x is prepared in the same order: all even elements of a pair of vectors, then the odd.
#include <cstring>

#include "device/cpu/matmul_kernel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "device/cpu/matmul_hwy.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h: compiled once per instruction set.
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lorax::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// Two vectors of widened elements: even and odd ones, or simply two in a row for float32.
struct Pair {
  V first;
  V second;
};

HWY_INLINE int64_t pair_size() { return 2 * static_cast<int64_t>(hn::Lanes(D())); }

HWY_INLINE Pair load_pair(const float* from) {
  const D d;
  return {hn::LoadU(d, from), hn::LoadU(d, from + hn::Lanes(d))};
}

HWY_INLINE Pair load_pair(const BFloat16* from) {
  const D d;
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::LoadU(du, reinterpret_cast<const uint32_t*>(from));
  return {hn::BitCast(d, hn::ShiftLeft<16>(bits)),
          hn::BitCast(d, hn::And(bits, hn::Set(du, 0xffff0000u)))};
}

// Registers: 16 vectors hold 4 x 3 sums and their operands, 32 hold 6 x 4.
#if HWY_TARGET <= HWY_AVX3 || HWY_TARGET == HWY_NEON
constexpr int kRows = 6;
constexpr int kColumns = 4;
#else
constexpr int kRows = 4;
constexpr int kColumns = 3;
#endif
constexpr int kColumnsOfOneRow = 8;

template <int kR, int kC, typename T>
HWY_INLINE void multiply_tile(const MatmulBlock& block, int64_t row, int64_t column) {
  const D d;
  const float* x[kR];
  const T* w[kC];
  V sums[kR][kC];
  for (int r = 0; r < kR; ++r) {
    x[r] = reinterpret_cast<const float*>(static_cast<const char*>(block.x) +
                                          (row + r) * block.x_stride);
  }
  for (int c = 0; c < kC; ++c) {
    w[c] = reinterpret_cast<const T*>(static_cast<const char*>(block.weight) +
                                      (column + c) * block.weight_stride);
    for (int r = 0; r < kR; ++r) sums[r][c] = hn::Zero(d);
  }
  const auto step = [&](const Pair (&weights)[kC], int64_t i) HWY_ATTR {
    for (int r = 0; r < kR; ++r) {
      const Pair xs = load_pair(x[r] + i);
      for (int c = 0; c < kC; ++c) sums[r][c] = hn::MulAdd(xs.first, weights[c].first, sums[r][c]);
      for (int c = 0; c < kC; ++c) {
        sums[r][c] = hn::MulAdd(xs.second, weights[c].second, sums[r][c]);
      }
    }
  };
  const int64_t size = pair_size();
  int64_t i = 0;
  for (; i + size <= block.count; i += size) {
    Pair weights[kC];
    for (int c = 0; c < kC; ++c) {
      // A decode step streams its weights: the same place in the rows of the next tile.
      if (kR == 1) {
        hwy::Prefetch(reinterpret_cast<const char*>(w[c] + i) + kC * block.weight_stride);
      }
      weights[c] = load_pair(w[c] + i);
    }
    step(weights, i);
  }
  if (i < block.count) {
    Pair weights[kC];
    for (int c = 0; c < kC; ++c) {
      T rest[2 * HWY_MAX_BYTES / sizeof(float)] = {};
      std::memcpy(rest, w[c] + i, static_cast<size_t>(block.count - i) * sizeof(T));
      weights[c] = load_pair(rest);
    }
    step(weights, i);
  }
  for (int r = 0; r < kR; ++r) {
    float* out = block.sums + (row + r) * block.sums_stride + column;
    for (int c = 0; c < kC; ++c) {
      const float sum = hn::GetLane(hn::SumOfLanes(d, sums[r][c]));
      out[c] = block.add ? out[c] + sum : sum;
    }
  }
}

template <int kR, typename T>
HWY_INLINE void multiply_rows(const MatmulBlock& block, int64_t row, int64_t column) {
  constexpr int kC = kR == 1 ? kColumnsOfOneRow : kColumns;
  const int64_t end = block.columns < column + kC ? block.columns : column + kC;
  if (end == column + kC) {
    multiply_tile<kR, kC, T>(block, row, column);
  } else {
    for (; column < end; ++column) multiply_tile<kR, 1, T>(block, row, column);
  }
}

// Columns outside, rows inside: a tile's weights stay in the first cache for all rows.
template <typename T>
HWY_INLINE void multiply(const MatmulBlock& block) {
  const int64_t columns = block.rows == 1 ? kColumnsOfOneRow : kColumns;
  for (int64_t column = 0; column < block.columns; column += columns) {
    int64_t row = 0;
    for (; row + kRows <= block.rows; row += kRows) multiply_rows<kRows, T>(block, row, column);
    switch (block.rows - row) {
      case 5:
        if constexpr (kRows > 5) multiply_rows<5, T>(block, row, column);
        break;
      case 4:
        if constexpr (kRows > 4) multiply_rows<4, T>(block, row, column);
        break;
      case 3:
        multiply_rows<3, T>(block, row, column);
        break;
      case 2:
        multiply_rows<2, T>(block, row, column);
        break;
      case 1:
        if (block.rows == 1) {
          multiply_rows<1, T>(block, row, column);
        } else {
          const int64_t end = block.columns < column + kColumns ? block.columns : column + kColumns;
          for (int64_t c = column; c < end; ++c) multiply_tile<1, 1, T>(block, row, c);
        }
        break;
      default:
        break;
    }
  }
}

void multiply_float32(const MatmulBlock& block) { multiply<float>(block); }
void multiply_bfloat16(const MatmulBlock& block) { multiply<BFloat16>(block); }

// Even elements of each pair of vectors, then the odd ones.
void prepare_bfloat16(const void* x, int64_t count, void* prepared) {
  const int64_t size = pair_size();
  const BFloat16* from = static_cast<const BFloat16*>(x);
  float* to = static_cast<float*>(prepared);
  const int64_t padded =
      (count + MatmulKernel::kGroup - 1) / MatmulKernel::kGroup * MatmulKernel::kGroup;
  for (int64_t i = 0; i < padded; i += size) {
    BFloat16 group[2 * HWY_MAX_BYTES / sizeof(float)] = {};
    const int64_t left = count - i;
    if (left > 0) {
      std::memcpy(group, from + i, static_cast<size_t>(left < size ? left : size) * 2);
    }
    const Pair pair = load_pair(group);
    const D d;
    hn::StoreU(pair.first, d, to + i);
    hn::StoreU(pair.second, d, to + i + hn::Lanes(d));
  }
}

const char* target_name() { return hwy::TargetName(HWY_TARGET); }

}  // namespace
}  // namespace lorax::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorax::cpu {
namespace {

HWY_EXPORT(multiply_float32);
HWY_EXPORT(multiply_bfloat16);
HWY_EXPORT(prepare_bfloat16);
HWY_EXPORT(target_name);

void prepare_float32(const void* x, int64_t count, void* prepared) {
  const int64_t padded =
      (count + MatmulKernel::kGroup - 1) / MatmulKernel::kGroup * MatmulKernel::kGroup;
  float* to = static_cast<float*>(prepared);
  std::memcpy(to, x, static_cast<size_t>(count) * sizeof(float));
  std::memset(to + count, 0, static_cast<size_t>(padded - count) * sizeof(float));
}

}  // namespace

const MatmulKernel& float32_matmul_kernel() {
  static const MatmulKernel kernel = {
      HWY_DYNAMIC_DISPATCH(target_name)(), DType::kFloat32, 4, [] { return true; },
      prepare_float32,
      [](const MatmulBlock& block) { HWY_DYNAMIC_DISPATCH(multiply_float32)(block); }};
  return kernel;
}

const MatmulKernel& widening_bfloat16_matmul_kernel() {
  static const MatmulKernel kernel = {
      HWY_DYNAMIC_DISPATCH(target_name)(), DType::kBFloat16, 4, [] { return true; },
      [](const void* x, int64_t count, void* prepared) {
        HWY_DYNAMIC_DISPATCH(prepare_bfloat16)(x, count, prepared);
      },
      [](const MatmulBlock& block) { HWY_DYNAMIC_DISPATCH(multiply_bfloat16)(block); }};
  return kernel;
}

}  // namespace lorax::cpu
#endif  // HWY_ONCE
