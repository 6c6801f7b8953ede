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

// As BFloat16(float): to nearest even, NaN stays NaN.
template <class D>
HWY_INLINE void store(D /*d*/, hn::Vec<D> values, BFloat16* to) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<int32_t, D> di;
  const hn::Rebind<uint32_t, D> du;
  const auto bits = hn::BitCast(du, values);
  const auto upper = hn::ShiftRight<16>(bits);
  const auto odd = hn::And(upper, hn::Set(du, 1u));
  const auto rounded =
      hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu))));
  const auto is_nan = hn::RebindMask(du, hn::IsNaN(values));
  const auto result = hn::IfThenElse(is_nan, hn::Or(upper, hn::Set(du, 0x40u)), rounded);
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, result)), d16, &to->bits);
}

// Calls body(d, i) for consecutive vectors at i, then for the remaining single lanes. Each lane must
// be computed on its own; then its bits do not depend on which of the two it met.
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
