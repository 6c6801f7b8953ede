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

// Two vectors' worth of consecutive elements, as is fastest: for bfloat16 the elements of even
// index and those of odd index. store_pair is the inverse.
template <class D>
HWY_INLINE void load_pair(D d, const float* from, hn::Vec<D>& first, hn::Vec<D>& second) {
  first = hn::LoadU(d, from);
  second = hn::LoadU(d, from + hn::Lanes(d));
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
