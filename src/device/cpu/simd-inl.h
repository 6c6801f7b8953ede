// Vectors of float32, loaded from and rounded to the model dtypes. Compiled once per instruction
// set (Highway's foreach_target.h); this folder is built without contraction of a * b + c, so that
// one formula has one rounding wherever it is inlined.
#if defined(LORAX_DEVICE_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORAX_DEVICE_CPU_SIMD_INL_H_
#undef LORAX_DEVICE_CPU_SIMD_INL_H_
#else
#define LORAX_DEVICE_CPU_SIMD_INL_H_
#endif

#include <cstdint>

#include "base/dtype.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lorax::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const float* from) {
  return hn::LoadU(d, from);
}

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const BFloat16* from) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<uint32_t, D> d32;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, &from->bits))));
}

// Whether Highway's conversions between float16 and float32 are one instruction, which rounds as
// Float16(float) does. Where they are not, Highway's own cut instead of rounding.
#if (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2) || HWY_ARCH_ARM_A64
inline constexpr bool kConvertsFloat16 = true;
#else
inline constexpr bool kConvertsFloat16 = false;
#endif

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const Float16* from) {
  const hn::Rebind<uint16_t, D> d16;
  const auto halves = hn::LoadU(d16, &from->bits);
  if constexpr (kConvertsFloat16) {
    return hn::PromoteTo(d, hn::BitCast(hn::Rebind<hwy::float16_t, D>(), halves));
  } else {
    const hn::Rebind<uint32_t, D> du;
    const auto bits = hn::PromoteTo(du, halves);
    const auto magnitude = hn::And(bits, hn::Set(du, 0x7fffu));
    // As if exponents had the same bias; the product puts that right, also for subnormals.
    const auto scaled = hn::Mul(hn::BitCast(d, hn::ShiftLeft<13>(magnitude)), hn::Set(d, 0x1p112f));
    const auto special = hn::Gt(magnitude, hn::Set(du, 0x7bffu));  // infinity or NaN
    const auto value =
        hn::Or(hn::BitCast(du, scaled), hn::IfThenElseZero(special, hn::Set(du, 0x7f800000u)));
    return hn::BitCast(d, hn::Or(value, hn::ShiftLeft<16>(hn::Sub(bits, magnitude))));
  }
}

template <class D>
HWY_INLINE void store(D d, hn::Vec<D> values, float* to) {
  hn::StoreU(values, d, to);
}

// The bits of float32 values rounded as by BFloat16(float): to nearest even in the upper half, NaN
// stays NaN. The lower half is noise.
template <class D>
HWY_INLINE hn::Vec<hn::Rebind<uint32_t, D>> rounded_bits(D /*d*/, hn::Vec<D> values) {
  const hn::Rebind<uint32_t, D> du;
  const auto bits = hn::BitCast(du, values);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu)));
  const auto quiet_nan = hn::Or(bits, hn::Set(du, 0x400000u));
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(values)), quiet_nan, rounded);
}

template <class D>
HWY_INLINE void store(D d, hn::Vec<D> values, BFloat16* to) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<int32_t, D> di;
  const auto upper = hn::ShiftRight<16>(rounded_bits(d, values));
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, upper)), d16, &to->bits);
}

// As by Float16(float).
template <class D>
HWY_INLINE void store(D d, hn::Vec<D> values, Float16* to) {
  const hn::Rebind<uint16_t, D> d16;
  if constexpr (kConvertsFloat16) {
    const auto halves = hn::DemoteTo(hn::Rebind<hwy::float16_t, D>(), values);
    hn::StoreU(hn::BitCast(d16, halves), d16, &to->bits);
  } else {
    const hn::Rebind<uint32_t, D> du;
    const hn::Rebind<int32_t, D> di;
    const auto bits = hn::BitCast(du, values);
    const auto magnitude = hn::And(bits, hn::Set(du, 0x7fffffffu));
    const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 1u));
    const auto rounded = hn::Add(magnitude, hn::Add(odd, hn::Set(du, 0xfffu)));
    auto half = hn::ShiftRight<13>(hn::Sub(rounded, hn::Set(du, 0x38000000u)));
    // A subnormal: the adder rounds at bit 2^-24.
    const auto shifted = hn::Add(hn::BitCast(d, magnitude), hn::Set(d, 0.5f));
    half = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 0x38800000u)),
                          hn::Sub(hn::BitCast(du, shifted), hn::Set(du, 0x3f000000u)), half);
    half = hn::IfThenElse(hn::Gt(magnitude, hn::Set(du, 0x477fefffu)), hn::Set(du, 0x7c00u), half);
    half = hn::IfThenElse(hn::Gt(magnitude, hn::Set(du, 0x7f800000u)), hn::Set(du, 0x7e00u), half);
    const auto sign = hn::ShiftRight<16>(hn::Sub(bits, magnitude));
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, hn::Or(half, sign))), d16, &to->bits);
  }
}

// Two vectors' worth of consecutive elements, as is fastest: for bfloat16 the elements of even
// index and those of odd index. store_pair is the inverse.
template <class D>
HWY_INLINE void load_pair(D d, const float* from, hn::Vec<D>& first, hn::Vec<D>& second) {
  first = hn::LoadU(d, from);
  second = hn::LoadU(d, from + hn::Lanes(d));
}

template <class D>
HWY_INLINE void load_pair(D d, const Float16* from, hn::Vec<D>& first, hn::Vec<D>& second) {
  first = load(d, from);
  second = load(d, from + hn::Lanes(d));
}

template <class D>
HWY_INLINE void load_pair(D d, const BFloat16* from, hn::Vec<D>& even, hn::Vec<D>& odd) {
  const hn::Repartition<uint16_t, D> d16;
  const hn::Rebind<uint32_t, D> du;
  const auto both = hn::BitCast(du, hn::LoadU(d16, &from->bits));
  even = hn::BitCast(d, hn::ShiftLeft<16>(both));
  odd = hn::BitCast(d, hn::And(both, hn::Set(du, 0xffff0000u)));
}

template <class D>
HWY_INLINE void store_pair(D d, hn::Vec<D> first, hn::Vec<D> second, float* to) {
  hn::StoreU(first, d, to);
  hn::StoreU(second, d, to + hn::Lanes(d));
}

template <class D>
HWY_INLINE void store_pair(D d, hn::Vec<D> first, hn::Vec<D> second, Float16* to) {
  store(d, first, to);
  store(d, second, to + hn::Lanes(d));
}

template <class D>
HWY_INLINE void store_pair(D d, hn::Vec<D> even, hn::Vec<D> odd, BFloat16* to) {
  const hn::Repartition<uint16_t, D> d16;
  const hn::Rebind<uint32_t, D> du;
  const auto lower = hn::ShiftRight<16>(rounded_bits(d, even));
  const auto upper = hn::And(rounded_bits(d, odd), hn::Set(du, 0xffff0000u));
  hn::StoreU(hn::BitCast(d16, hn::Or(lower, upper)), d16, &to->bits);
}

// Calls body(d, i) for consecutive vectors at i, then for the remaining single lanes. Each lane
// must be computed on its own; then its bits do not depend on which of the two it met.
template <class Body>
HWY_INLINE void for_each_vector(int64_t begin, int64_t end, const Body& body) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) body(d, i);
  for (; i < end; ++i) body(hn::CappedTag<float, 1>(), i);
}

// The largest lane. Highway's own of its plain loops (EMU128) knows nothing below the least finite
// number, and would make that of a vector of -infinity.
template <class D>
HWY_INLINE float max_of_lanes(D d, hn::Vec<D> values) {
#if HWY_TARGET == HWY_EMU128
  float lanes[hn::MaxLanes(D())];
  hn::StoreU(values, d, lanes);
  float max = lanes[0];
  for (float lane : lanes) max = lane > max ? lane : max;
  return max;
#else
  return hn::GetLane(hn::MaxOfLanes(d, values));
#endif
}

// e^x to about 1 ulp for x <= 0; NaN stays NaN (hn::Exp makes it 0).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp_of_negative(D d, V x) {
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(d, x));
}

HWY_INLINE float exp_of_negative(float x) {
  const hn::CappedTag<float, 1> d;
  return hn::GetLane(exp_of_negative(d, hn::Set(d, x)));
}

}  // namespace lorax::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // LORAX_DEVICE_CPU_SIMD_INL_H_
