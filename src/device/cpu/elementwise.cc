#include "device/cpu/elementwise.h"

#include <cmath>
#include <type_traits>

#include "device/cpu/visit_dtype.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "device/cpu/elementwise.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h: compiled once per instruction set.
#include "device/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorax::cpu::HWY_NAMESPACE {
namespace {

template <typename T>
T* row_of(const Tensor& x, int64_t row) {
  return x.as<T>() + row * x.stride(0);
}

void embedding_row(const Tensor& ids, const Tensor& table, float scale, const Tensor& out,
                   int64_t row) {
  const int64_t id = ids.as<int32_t>()[row];
  float* to = row_of<float>(out, row);
  visit_model_dtype(table.dtype, [&]<typename T>(std::type_identity<T>) HWY_ATTR {
    const T* from = row_of<T>(table, id);
    for_each_vector(0, table.dim(1), [&](auto d, int64_t i) HWY_ATTR {
      store(d, hn::Mul(load(d, from + i), hn::Set(d, scale)), to + i);
    });
  });
}

// 1 / sqrt(mean(x^2) + eps).
template <typename T>
float inverse_rms(const T* x, int64_t n, float eps) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto sum0 = hn::Zero(d), sum1 = hn::Zero(d), sum2 = hn::Zero(d), sum3 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    const auto x0 = load(d, x + i), x1 = load(d, x + i + lanes);
    const auto x2 = load(d, x + i + 2 * lanes), x3 = load(d, x + i + 3 * lanes);
    sum0 = hn::MulAdd(x0, x0, sum0);
    sum1 = hn::MulAdd(x1, x1, sum1);
    sum2 = hn::MulAdd(x2, x2, sum2);
    sum3 = hn::MulAdd(x3, x3, sum3);
  }
  for (; i + lanes <= n; i += lanes) {
    const auto x0 = load(d, x + i);
    sum0 = hn::MulAdd(x0, x0, sum0);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
  for (; i < n; ++i) {
    const float value = static_cast<float>(x[i]);
    sum += value * value;
  }
  return 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
}

void rms_norm_row(const Tensor& x, const Tensor& weight, float eps, const Tensor& out,
                  int64_t row) {
  const float* w = weight.as<float>();
  visit_dtypes(x.dtype, out.dtype,
               [&]<typename T, typename Out>(std::type_identity<T>, std::type_identity<Out>)
                   HWY_ATTR {
                     const T* from = row_of<T>(x, row);
                     const float factor = inverse_rms(from, x.dim(1), eps);
                     Out* to = row_of<Out>(out, row);
                     for_each_vector(0, x.dim(1), [&](auto d, int64_t i) HWY_ATTR {
                       const auto normed = hn::Mul(load(d, from + i), hn::Set(d, factor));
                       store(d, hn::Mul(normed, load(d, w + i)), to + i);
                     });
                   });
}

void rms_norm_add_row(const Tensor& x, const Tensor& weight, float eps, const Tensor& residual,
                      int64_t row) {
  const float* w = weight.as<float>();
  float* to = row_of<float>(residual, row);
  visit_model_dtype(x.dtype, [&]<typename T>(std::type_identity<T>) HWY_ATTR {
    const T* from = row_of<T>(x, row);
    const float factor = inverse_rms(from, x.dim(1), eps);
    for_each_vector(0, x.dim(1), [&](auto d, int64_t i) HWY_ATTR {
      const auto normed = hn::Mul(load(d, from + i), hn::Set(d, factor));
      store(d, hn::Add(load(d, to + i), hn::Mul(normed, load(d, w + i))), to + i);
    });
  });
}

void add_silu_row(const Tensor& x, const Tensor& h, const Tensor& bias, const Tensor& out,
                  int64_t row) {
  visit_model_dtype(x.dtype, [&]<typename T>(std::type_identity<T>) HWY_ATTR {
    const T* from = row_of<T>(x, row);
    const T* inner = row_of<T>(h, row);
    const T* b = bias.as<T>();
    T* to = row_of<T>(out, row);
    for_each_vector(0, out.dim(1), [&](auto d, int64_t i) HWY_ATTR {
      const auto z = hn::Add(load(d, inner + i), load(d, b + i));
      const auto silu = hn::Div(z, hn::Add(hn::Set(d, 1.0f), hn::Exp(d, hn::Neg(z))));
      store(d, hn::Add(load(d, from + i), silu), to + i);
    });
  });
}

void rotary_row(const Tensor& x, const Tensor& positions, const Tensor& cos, const Tensor& sin,
                int64_t row) {
  const int64_t half = x.dim(2) / 2;
  const int64_t position = positions.as<int32_t>()[row];
  const float* c = row_of<float>(cos, position);
  const float* s = row_of<float>(sin, position);
  visit_model_dtype(x.dtype, [&]<typename T>(std::type_identity<T>) HWY_ATTR {
    for (int64_t head = 0; head < x.dim(1); ++head) {
      T* first = row_of<T>(x, row) + head * x.stride(1);
      T* second = first + half;
      for_each_vector(0, half, [&](auto d, int64_t i) HWY_ATTR {
        const auto x1 = load(d, first + i), x2 = load(d, second + i);
        const auto cos_i = load(d, c + i), sin_i = load(d, s + i);
        store(d, hn::Sub(hn::Mul(x1, cos_i), hn::Mul(x2, sin_i)), first + i);
        store(d, hn::Add(hn::Mul(x2, cos_i), hn::Mul(x1, sin_i)), second + i);
      });
    }
  });
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V gelu_tanh(D d, V x) {
  const V cubic = hn::MulAdd(hn::Mul(hn::Mul(x, x), x), hn::Set(d, 0.044715f), x);
  const V tanh = hn::Tanh(d, hn::Mul(cubic, hn::Set(d, 0.7978845608028654f)));  // sqrt(2 / pi)
  return hn::Mul(hn::Mul(hn::Set(d, 0.5f), x), hn::Add(tanh, hn::Set(d, 1.0f)));
}

void gelu_tanh_mul_columns(const Tensor& gate_up, const Tensor& out, int64_t row, int64_t begin,
                           int64_t end) {
  visit_model_dtype(out.dtype, [&]<typename T>(std::type_identity<T>) HWY_ATTR {
    const T* gate = row_of<T>(gate_up, row);
    const T* up = gate + out.dim(1);
    T* to = row_of<T>(out, row);
    for_each_vector(begin, end, [&](auto d, int64_t i) HWY_ATTR {
      store(d, hn::Mul(gelu_tanh(d, load(d, gate + i)), load(d, up + i)), to + i);
    });
  });
}

void softcap_elements(const Tensor& x, float cap, int64_t begin, int64_t end) {
  float* values = x.as<float>();
  for_each_vector(begin, end, [&](auto d, int64_t i) HWY_ATTR {
    const auto ratio = hn::Div(load(d, values + i), hn::Set(d, cap));
    store(d, hn::Mul(hn::Set(d, cap), hn::Tanh(d, ratio)), values + i);
  });
}

}  // namespace
}  // namespace lorax::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorax::cpu {

HWY_EXPORT(embedding_row);
HWY_EXPORT(rms_norm_row);
HWY_EXPORT(rms_norm_add_row);
HWY_EXPORT(add_silu_row);
HWY_EXPORT(rotary_row);
HWY_EXPORT(gelu_tanh_mul_columns);
HWY_EXPORT(softcap_elements);

void embedding(const Tensor& ids, const Tensor& table, float scale, const Tensor& out,
               int64_t row) {
  HWY_DYNAMIC_DISPATCH(embedding_row)(ids, table, scale, out, row);
}

void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out, int64_t row) {
  HWY_DYNAMIC_DISPATCH(rms_norm_row)(x, weight, eps, out, row);
}

void rms_norm_add(const Tensor& x, const Tensor& weight, float eps, const Tensor& residual,
                  int64_t row) {
  HWY_DYNAMIC_DISPATCH(rms_norm_add_row)(x, weight, eps, residual, row);
}

void add_silu(const Tensor& x, const Tensor& h, const Tensor& bias, const Tensor& out,
              int64_t row) {
  HWY_DYNAMIC_DISPATCH(add_silu_row)(x, h, bias, out, row);
}

void rotary(const Tensor& x, const Tensor& positions, const Tensor& cos, const Tensor& sin,
            int64_t row) {
  HWY_DYNAMIC_DISPATCH(rotary_row)(x, positions, cos, sin, row);
}

void gelu_tanh_mul(const Tensor& gate_up, const Tensor& out, int64_t row, int64_t begin,
                   int64_t end) {
  HWY_DYNAMIC_DISPATCH(gelu_tanh_mul_columns)(gate_up, out, row, begin, end);
}

void softcap(const Tensor& x, float cap, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(softcap_elements)(x, cap, begin, end);
}

}  // namespace lorax::cpu
#endif  // HWY_ONCE
