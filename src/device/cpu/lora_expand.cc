#include "device/cpu/lora_expand.h"

#include <algorithm>

#include "device/cpu/visit_dtype.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "device/cpu/lora_expand.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h: compiled once per instruction set.
#include "device/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorax::cpu::HWY_NAMESPACE {
namespace {

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;

constexpr int64_t kLanes = hn::MaxLanes(D());
// A tile's sums and their operands fill the registers: 4 x 4 of 32, or 4 x 2 of 16.
constexpr int kRows = 4;
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr int kVectors = 4;
#else
constexpr int kVectors = 2;
#endif
constexpr int64_t kTile = kVectors * kLanes;  // columns; divides a panel
static_assert(kLoraPanel % kTile == 0);

// out = gain * (out + sum + bias) for `count` columns at `column` of the module.
template <typename O>
HWY_INLINE void finish_row(const LoraExpansion& e, const float* sums, int64_t column, int64_t count,
                           O* out) {
  for_each_vector(0, count, [&](auto d, int64_t i) HWY_ATTR {
    auto value = hn::Add(load(d, out + i), hn::LoadU(d, sums + i));
    if (e.entry.bias != nullptr) value = hn::Add(value, hn::LoadU(d, e.entry.bias + column + i));
    if (e.entry.gain != nullptr) value = hn::Mul(value, hn::LoadU(d, e.entry.gain + column + i));
    store(d, value, out + i);
  });
}

template <int kR, typename T, typename O>
HWY_INLINE void expand_tile(const LoraExpansion& e, const T* b, int64_t row, int64_t column) {
  const int64_t rank = e.entry.rank;
  V sums[kR][kVectors];
  for (int r = 0; r < kR; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(D());
  }
  for (int64_t k = 0; k < rank; ++k, b += kLoraPanel) {
    V factors[kVectors];
    for (int v = 0; v < kVectors; ++v) factors[v] = load(D(), b + v * kLanes);
    for (int r = 0; r < kR; ++r) {
      const V h = hn::Set(D(), e.h[(row + r) * rank + k]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(h, factors[v], sums[r][v]);
    }
  }
  const int64_t count = std::min(kTile, e.columns - column);
  for (int r = 0; r < kR; ++r) {
    HWY_ALIGN float sum[kTile];
    for (int v = 0; v < kVectors; ++v) hn::Store(sums[r][v], D(), sum + v * kLanes);
    O* out = e.out.as<O>() + e.rows[row + r] * e.out.stride(0) + e.column + column;
    finish_row(e, sum, column, count, out);
  }
}

template <typename T, typename O>
HWY_INLINE void expand_panel(const LoraExpansion& e, int64_t panel) {
  const T* b = static_cast<const T*>(e.entry.b) + panel * e.entry.rank * kLoraPanel;
  const int64_t end = std::min(e.columns, (panel + 1) * kLoraPanel);
  for (int64_t row = 0; row < e.count; row += kRows) {
    const T* tile = b;
    for (int64_t column = panel * kLoraPanel; column < end; column += kTile, tile += kTile) {
      switch (std::min<int64_t>(kRows, e.count - row)) {
        case 1:
          expand_tile<1, T, O>(e, tile, row, column);
          break;
        case 2:
          expand_tile<2, T, O>(e, tile, row, column);
          break;
        case 3:
          expand_tile<3, T, O>(e, tile, row, column);
          break;
        default:
          expand_tile<kRows, T, O>(e, tile, row, column);
      }
    }
  }
}

void expand(const LoraExpansion& e, int64_t begin, int64_t end) {
  visit_dtypes(e.dtype, e.out.dtype,
               [&]<typename T, typename O>(std::type_identity<T>, std::type_identity<O>) HWY_ATTR {
                 for (int64_t panel = begin; panel < end; ++panel) expand_panel<T, O>(e, panel);
               });
}

}  // namespace
}  // namespace lorax::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorax::cpu {
namespace {

HWY_EXPORT(expand);

}  // namespace

void expand_lora(const LoraExpansion& expansion, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(expand)(expansion, begin, end);
}

}  // namespace lorax::cpu
#endif  // HWY_ONCE
