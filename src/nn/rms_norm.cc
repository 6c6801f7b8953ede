#include "nn/rms_norm.h"

namespace lorax {

RmsNorm::RmsNorm(const Weights& weights, std::string_view name, int64_t size, float eps,
                 float offset)
    : weight_(weights.vector_float32(name, size, offset)),
      module_(weights.store().add_module({.name = weights.full_name(name),
                                          .kind = AdapterModule::Kind::kNorm,
                                          .in = 0,
                                          .out = size,
                                          .weight = weight_})),
      eps_(eps) {}

template <typename Norm>
void RmsNorm::for_each_weight(int64_t rows, const AdapterBatchData* adapters,
                              const Norm& norm) const {
  if (!is_replaced(adapters)) return norm(0, rows, weight_);
  adapters->for_each_run([&](int64_t begin, int64_t end, const AdapterSlot* slot) {
    const Tensor* own = slot != nullptr ? slot->replacement(module_) : nullptr;
    norm(begin, end, own != nullptr ? *own : weight_);
  });
}

void RmsNorm::into(Context& context, const Tensor& x, const Tensor& out,
                   const AdapterBatchData* adapters) const {
  for_each_weight(x.dim(0), adapters, [&](int64_t begin, int64_t end, const Tensor& weight) {
    ops::rms_norm_into(context, x.slice(0, begin, end), weight, eps_, out.slice(0, begin, end));
  });
}

void RmsNorm::after(Context& context, const Pending& pending, const Tensor& residual,
                    const Tensor& out, const AdapterBatchData* adapters) const {
  if (pending.norm == nullptr) return into(context, residual, out, adapters);
  const RmsNorm& before = *pending.norm;
  if (!before.is_replaced(adapters) && !is_replaced(adapters)) {
    return ops::rms_norm_add_norm_into(context, pending.x, before.weight_, before.eps_, residual,
                                       weight_, eps_, out);
  }
  before.for_each_weight(residual.dim(0), adapters,
                         [&](int64_t begin, int64_t end, const Tensor& weight) {
                           ops::rms_norm_add(context, pending.x.slice(0, begin, end), weight,
                                             before.eps_, residual.slice(0, begin, end));
                         });
  into(context, residual, out, adapters);
}

}  // namespace lorax
