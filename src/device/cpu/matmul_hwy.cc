// Products in float32 on any processor. Weights of 16 bits are widened in registers: float16 by the
// processor's conversion, and of each 32-bit pair of bfloat16 the odd element is its upper half and
// the even one its lower half shifted up. So no shuffle is needed if x is prepared in the same
// order: the even elements of a pair of vectors, then the odd ones.
#include <algorithm>
#include <array>
#include <cstring>

#include "device/cpu/matmul_kernel.h"
#include "device/cpu/visit_dtype.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "device/cpu/matmul_hwy.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h: compiled once per instruction set.
#include "device/cpu/simd-inl.h"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace lorax::cpu::HWY_NAMESPACE {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

constexpr int64_t kLanes = hn::MaxLanes(D());
constexpr int64_t kPair = 2 * kLanes;  // elements of one turn of the inner loop

// Sums that are kept in registers, and the rows of a tile: 4 x 3 and their operands fill 16
// registers, 6 x 4 fill 32.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr int kSums = 24;
constexpr int kRows = 6;
#else
constexpr int kSums = 12;
constexpr int kRows = 4;
#endif

// Columns of a tile of `rows` rows: a divisor of MatmulKernel::kColumns.
constexpr int tile_columns(int rows) { return rows == 5 ? 4 : std::min(12, kSums / rows); }

// The odd element of each 32-bit pair of bfloat16.
HWY_ALIGN_MAX constexpr auto kOddElements = [] {
  std::array<uint32_t, kLanes> mask{};
  mask.fill(0xffff0000u);
  return mask;
}();

// The first or second vector of a pair of them: two in a row, or the even and the odd elements.
template <int kHalf>
HWY_INLINE V load_half(const float* from, const uint32_t* /*odd_elements*/) {
  return hn::LoadU(D(), from + kHalf * kLanes);
}

template <int kHalf>
HWY_INLINE V load_half(const Float16* from, const uint32_t* /*odd_elements*/) {
  return load(D(), from + kHalf * kLanes);
}

template <int kHalf>
HWY_INLINE V load_half(const BFloat16* from, const uint32_t* odd_elements) {
  const hn::RebindToUnsigned<D> du;
  const auto both = hn::BitCast(du, hn::LoadU(hn::Repartition<uint16_t, D>(), &from->bits));
  return hn::BitCast(
      D(), kHalf == 0 ? hn::ShiftLeft<16>(both) : hn::And(both, hn::Load(du, odd_elements)));
}

// sums[r][c] += half of x[r] at i times half of the weights at w[c] + j. The fewer operands are
// held in registers, the others pass by.
template <int kHalf, int kR, int kC, typename T>
HWY_INLINE void add_products(const float* const (&x)[kR], int64_t i, const T* const (&w)[kC],
                             int64_t j, const uint32_t* odd_elements, V (&sums)[kR][kC]) {
  if constexpr (kR < kC) {
    V xs[kR];
    for (int r = 0; r < kR; ++r) xs[r] = hn::LoadU(D(), x[r] + i + kHalf * kLanes);
    for (int c = 0; c < kC; ++c) {
      const V weights = load_half<kHalf>(w[c] + j, odd_elements);
      for (int r = 0; r < kR; ++r) sums[r][c] = hn::MulAdd(xs[r], weights, sums[r][c]);
    }
  } else {
    V weights[kC];
    for (int c = 0; c < kC; ++c) weights[c] = load_half<kHalf>(w[c] + j, odd_elements);
    for (int r = 0; r < kR; ++r) {
      const V xs = hn::LoadU(D(), x[r] + i + kHalf * kLanes);
      for (int c = 0; c < kC; ++c) sums[r][c] = hn::MulAdd(xs, weights[c], sums[r][c]);
    }
  }
}

// {sum of a's lanes, of b's, of c's, of e's}: each through the same additions.
template <class DV, class VV = hn::Vec<DV>>
HWY_INLINE hn::Vec<hn::CappedTag<float, 4>> sum_lanes(DV d, VV a, VV b, VV c, VV e) {
  if constexpr (hn::MaxLanes(DV()) > 4) {
    const hn::Half<DV> half;
    return sum_lanes(half, hn::Add(hn::LowerHalf(half, a), hn::UpperHalf(half, a)),
                     hn::Add(hn::LowerHalf(half, b), hn::UpperHalf(half, b)),
                     hn::Add(hn::LowerHalf(half, c), hn::UpperHalf(half, c)),
                     hn::Add(hn::LowerHalf(half, e), hn::UpperHalf(half, e)));
  } else {
    const hn::Repartition<double, DV> d64;
    const auto ab =
        hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
    const auto ce =
        hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e)));
    return hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, ab, ce)),
                   hn::BitCast(d, hn::InterleaveUpper(d64, ab, ce)));
  }
}

template <int kC>
HWY_INLINE void store_sums(const V (&sums)[kC], float* out, bool add) {
  const hn::CappedTag<float, 4> d4;
  const V zero = hn::Zero(D());
  for (int c = 0; c < kC; c += 4) {
    const auto totals = sum_lanes(D(), sums[c], c + 1 < kC ? sums[c + 1] : zero,
                                  c + 2 < kC ? sums[c + 2] : zero, c + 3 < kC ? sums[c + 3] : zero);
    if (c + 4 <= kC) {
      hn::StoreU(add ? hn::Add(hn::LoadU(d4, out + c), totals) : totals, d4, out + c);
      continue;
    }
    float rest[4];
    hn::StoreU(totals, d4, rest);
    for (int i = c; i < kC; ++i) out[i] = add ? out[i] + rest[i - c] : rest[i - c];
  }
}

// The next block is prefetched while this one is multiplied: the tiles of one column share its
// columns' elements evenly.
struct Prefetch {
  int64_t begin;  // bytes from this block's weights
  int64_t step;   // bytes per turn of the inner loop
};

template <int kR, int kC, typename T>
HWY_INLINE void multiply_tile(const MatmulBlock& block, int64_t row, int64_t column,
                              Prefetch prefetch) {
  const float* x[kR];
  const T* w[kC];
  V sums[kR][kC];
  const uint32_t* odd_elements = kOddElements.data();
  for (int r = 0; r < kR; ++r) {
    x[r] = reinterpret_cast<const float*>(static_cast<const char*>(block.x) +
                                          (row + r) * block.x_stride);
  }
  for (int c = 0; c < kC; ++c) {
    w[c] = reinterpret_cast<const T*>(static_cast<const char*>(block.weight) +
                                      (column + c) * block.weight_stride);
    for (int r = 0; r < kR; ++r) sums[r][c] = hn::Zero(D());
  }
  T rest[kC][kPair] = {};
  const T* rests[kC];
  const int64_t whole = block.count / kPair * kPair;
  for (int c = 0; c < kC; ++c) {
    rests[c] = rest[c];
    if (whole < block.count) {
      std::memcpy(rest[c], w[c] + whole, static_cast<size_t>(block.count - whole) * sizeof(T));
    }
  }
  for (int64_t i = 0; i < whole; i += kPair) {
    for (int c = 0; c < kC; ++c) {
      hwy::Prefetch(reinterpret_cast<const char*>(w[c]) + prefetch.begin);
    }
    prefetch.begin += prefetch.step;
    // The mask is to come from memory each time: no register is left for it, and the compiler would
    // rather spill a sum.
    asm volatile("" : "+r"(odd_elements));
    add_products<0>(x, i, w, i, odd_elements, sums);
    add_products<1>(x, i, w, i, odd_elements, sums);
  }
  if (whole < block.count) {
    add_products<0>(x, whole, rests, 0, odd_elements, sums);
    add_products<1>(x, whole, rests, 0, odd_elements, sums);
  }
  for (int r = 0; r < kR; ++r) {
    store_sums(sums[r], block.sums + (row + r) * block.sums_stride + column, block.add);
  }
}

template <int kR, typename T>
void multiply_rows(const MatmulBlock& block, int64_t row, Prefetch prefetch) {
  constexpr int kC = tile_columns(kR);
  int64_t column = 0;
  for (; column + kC <= block.columns; column += kC) {
    multiply_tile<kR, kC, T>(block, row, column, prefetch);
  }
  for (; column < block.columns; ++column) multiply_tile<kR, 1, T>(block, row, column, prefetch);
}

// Rows outside, columns inside: a tile's rows of x stay in the first cache for all columns, whose
// weights stay in the second for all rows.
template <typename T>
void multiply(const MatmulBlock& block) {
  const int64_t tiles = (block.rows + kRows - 1) / kRows;
  const int64_t distance =
      static_cast<const char*>(block.next_weight) - static_cast<const char*>(block.weight);
  const int64_t turns = block.count / kPair;
  Prefetch prefetch = {distance, kPair * static_cast<int64_t>(sizeof(T)) / (distance ? tiles : 1)};
  int64_t row = 0;
  for (; row + kRows <= block.rows; row += kRows) {
    multiply_rows<kRows, T>(block, row, prefetch);
    if (distance) prefetch.begin += turns * prefetch.step;
  }
  switch (block.rows - row) {
    case 5:
      if constexpr (kRows > 5) multiply_rows<5, T>(block, row, prefetch);
      break;
    case 4:
      if constexpr (kRows > 4) multiply_rows<4, T>(block, row, prefetch);
      break;
    case 3:
      multiply_rows<3, T>(block, row, prefetch);
      break;
    case 2:
      multiply_rows<2, T>(block, row, prefetch);
      break;
    case 1:
      multiply_rows<1, T>(block, row, prefetch);
      break;
    default:
      break;
  }
}

// sums[r] = x[r] . w over `count` elements.
template <int kR, typename T>
HWY_INLINE void multiply_column(const float* const (&x)[kR], const T* w, int64_t count,
                                V (&sums)[kR][1]) {
  const uint32_t* odd_elements = kOddElements.data();
  for (int r = 0; r < kR; ++r) sums[r][0] = hn::Zero(D());
  const int64_t whole = count / kPair * kPair;
  const T* const columns[1] = {w};
  for (int64_t i = 0; i < whole; i += kPair) {
    add_products<0>(x, i, columns, i, odd_elements, sums);
    add_products<1>(x, i, columns, i, odd_elements, sums);
  }
  if (whole < count) {
    T rest[kPair] = {};
    std::memcpy(rest, w + whole, static_cast<size_t>(count - whole) * sizeof(T));
    const T* const rests[1] = {rest};
    add_products<0>(x, whole, rests, 0, odd_elements, sums);
    add_products<1>(x, whole, rests, 0, odd_elements, sums);
  }
}

// One column after the other, and of each one chunk after the other.
template <int kR, typename T>
void stream_rows(const MatmulStream& product) {
  for (int64_t column = 0; column < product.columns; ++column) {
    const T* w = reinterpret_cast<const T*>(static_cast<const char*>(product.weight) +
                                            column * product.weight_stride);
    const char* rows = static_cast<const char*>(product.x);
    for (int64_t begin = 0; begin < product.count; begin += product.chunk) {
      const float* x[kR];
      for (int r = 0; r < kR; ++r) {
        x[r] = reinterpret_cast<const float*>(rows + r * product.x_stride);
      }
      V sums[kR][1];
      multiply_column(x, w + begin, std::min(product.chunk, product.count - begin), sums);
      for (int r = 0; r < kR; ++r) {
        store_sums(sums[r], product.sums + r * product.sums_stride + column, begin > 0);
      }
      rows += product.chunk_stride;
    }
  }
}

template <typename T>
void stream(const MatmulStream& product) {
  switch (product.rows) {
    case 1:
      return stream_rows<1, T>(product);
    case 2:
      return stream_rows<2, T>(product);
    case 3:
      return stream_rows<3, T>(product);
    default:
      return stream_rows<4, T>(product);
  }
}

template <typename T>
void prepare(const void* x, int64_t count, void* prepared) {
  const T* from = static_cast<const T*>(x);
  float* to = static_cast<float*>(prepared);
  const int64_t padded =
      (count + MatmulKernel::kGroup - 1) / MatmulKernel::kGroup * MatmulKernel::kGroup;
  for (int64_t i = 0; i < padded; i += kPair) {
    T rest[kPair] = {};
    const T* pair = from + i;
    if (i + kPair > count) {
      if (i < count) std::memcpy(rest, pair, static_cast<size_t>(count - i) * sizeof(T));
      pair = rest;
    }
    hn::StoreU(load_half<0>(pair, kOddElements.data()), D(), to + i);
    hn::StoreU(load_half<1>(pair, kOddElements.data()), D(), to + i + kLanes);
  }
}

template <typename T>
const MatmulKernel kKernel = {
    hwy::TargetName(HWY_TARGET), dtype_of<T>(), 4, prepare<T>, multiply<T>, stream<T>};

const MatmulKernel* kernel(DType dtype) {
  const MatmulKernel* found = nullptr;
  visit_model_dtype(dtype, [&]<typename T>(std::type_identity<T>) { found = &kKernel<T>; });
  return found;
}

void round_row(const float* from, int64_t count, DType dtype, void* to) {
  visit_model_dtype(dtype, [&]<typename T>(std::type_identity<T>) HWY_ATTR {
    T* row = static_cast<T*>(to);
    for_each_vector(0, count,
                    [&](auto d, int64_t i) HWY_ATTR { store(d, hn::LoadU(d, from + i), row + i); });
  });
}

}  // namespace
}  // namespace lorax::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorax::cpu {
namespace {

HWY_EXPORT(kernel);
HWY_EXPORT(round_row);

}  // namespace

const MatmulKernel& highway_matmul_kernel(DType dtype) {
  return *HWY_DYNAMIC_DISPATCH(kernel)(dtype);
}

std::vector<const MatmulKernel*> all_highway_matmul_kernels() {
  std::vector<const MatmulKernel*> kernels;
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::GetChosenTarget().Update(target);
    for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      kernels.push_back(HWY_DYNAMIC_DISPATCH(kernel)(dtype));
    }
  }
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  return kernels;
}

void store_rounded(const float* from, int64_t count, DType dtype, void* to) {
  HWY_DYNAMIC_DISPATCH(round_row)(from, count, dtype, to);
}

}  // namespace lorax::cpu
#endif  // HWY_ONCE
