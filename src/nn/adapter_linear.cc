#include "nn/adapter_linear.h"

#include <algorithm>

namespace lorax {
namespace {

// Columns of out that the rows' adapters have rows of the target's weight for.
void replace_tokens(Context& context, const Tensor& x, const LoraTarget& target,
                    const AdapterBatchData& adapters, const Tensor& out) {
  adapters.for_each_run([&](int64_t begin, int64_t end, const AdapterSlot* slot) {
    const TokenRows* own = slot != nullptr ? slot->tokens_of(target.module) : nullptr;
    if (own == nullptr) return;
    ops::token_columns_into(
        context, x.slice(0, begin, end), own->tokens, own->rows,
        out.slice(0, begin, end).slice(1, target.column, target.column + target.columns));
  });
}

// out = x * weight^T with each row's own weight where its adapter has one, then the low-rank parts.
void multiply(Context& context, const Tensor& x, const Tensor& weight, LoraTargets targets,
              const AdapterBatchData* adapters, const Tensor& out) {
  bool has_lora = false;
  bool has_replacement = false;  // of a weight, or of rows of it
  if (adapters != nullptr) {
    for (const LoraTarget& target : targets) {
      has_lora = has_lora || adapters->has_lora(target.module);
      has_replacement = has_replacement || adapters->has_replacement(target.module) ||
                        adapters->has_tokens(target.module);
    }
  }
  if (has_lora && !has_replacement) {
    return ops::linear_lora_into(context, x, weight, targets, adapters->rows(), out);
  }
  ops::linear_into(context, x, weight, out);
  if (!has_replacement) return;
  for (const LoraTarget& target : targets) {
    if (!adapters->has_replacement(target.module)) continue;
    adapters->for_each_run([&](int64_t begin, int64_t end, const AdapterSlot* slot) {
      const Tensor* own = slot != nullptr ? slot->replacement(target.module) : nullptr;
      if (own == nullptr) return;
      ops::linear_into(
          context, x.slice(0, begin, end), *own,
          out.slice(0, begin, end).slice(1, target.column, target.column + target.columns));
    });
  }
  for (const LoraTarget& target : targets) {
    if (adapters->has_tokens(target.module)) replace_tokens(context, x, target, *adapters, out);
  }
  if (has_lora) ops::lora(context, x, targets, adapters->rows(), out);
}

// Registers rows [column, column + rows) of a weight as a module that adapters may change.
LoraTarget add_module(const Weights& weights, std::string_view name, const Tensor& weight,
                      int64_t column, int64_t rows) {
  const int64_t module =
      weights.store().add_module({.name = weights.full_name(name),
                                  .kind = AdapterModule::Kind::kLinear,
                                  .in = weight.dim(1),
                                  .out = rows,
                                  .weight = weight.slice(0, column, column + rows)});
  return {module, column, rows};
}

}  // namespace

TensorParallelMultiAdapterLinear::TensorParallelMultiAdapterLinear(
    const Weights& weights, std::span<const Weights::Part> parts, int64_t columns)
    : weight_(weights.stacked(parts, columns)) {
  int64_t row = 0;
  for (const Weights::Part& part : parts) {
    targets_.push_back(add_module(weights, part.name, weight_, row, part.rows));
    row += part.rows;
  }
}

Tensor TensorParallelMultiAdapterLinear::operator()(Context& context, const Tensor& x,
                                                    const AdapterBatchData* adapters) const {
  const Tensor out = context.workspace.take(x.dtype, {x.dim(0), weight_.dim(0)});
  multiply(context, x, weight_, targets_, adapters, out);
  return out;
}

Tensor TensorParallelMultiAdapterLinear::gelu_tanh_mul(Context& context, const Tensor& x,
                                                       const AdapterBatchData* adapters) const {
  if (adapters == nullptr) return ops::linear_gelu_tanh_mul(context, x, weight_);
  return ops::gelu_tanh_mul(context, (*this)(context, x, adapters));
}

TensorParallelAdapterRowLinear::TensorParallelAdapterRowLinear(const Weights& weights,
                                                               std::string_view name, int64_t rows,
                                                               int64_t columns)
    : weight_(weights.matrix(name, rows, columns)),
      target_(add_module(weights, name, weight_, 0, rows)) {}

Tensor TensorParallelAdapterRowLinear::operator()(Context& context, const Tensor& x,
                                                  const AdapterBatchData* adapters) const {
  const Tensor out = context.workspace.take(x.dtype, {x.dim(0), weight_.dim(0)});
  into(context, x, out, adapters);
  return out;
}

void TensorParallelAdapterRowLinear::into(Context& context, const Tensor& x, const Tensor& out,
                                          const AdapterBatchData* adapters) const {
  multiply(context, x, weight_, {&target_, 1}, adapters, out);
}

MultiAdapterHead::MultiAdapterHead(const Weights& weights, std::string_view name,
                                   const Tensor& weight, float softcap)
    : weight_(weight),
      target_(add_module(weights, name, weight, 0, weight.dim(0))),
      softcap_(softcap) {}

HeadOutput MultiAdapterHead::operator()(Context& context, const Tensor& x,
                                        const AdapterBatchData* adapters) const {
  HeadOutput output;
  output.logits = context.workspace.take(DType::kFloat32, {x.dim(0), weight_.dim(0)});
  multiply(context, x, weight_, {&target_, 1}, adapters, output.logits);
  ops::softcap(context, output.logits, softcap_);
  if (adapters != nullptr && adapters->speculative_heads() > 0) {
    output.speculative_logits = speculate(context, x, *adapters);
  }
  return output;
}

Tensor MultiAdapterHead::speculate(Context& context, const Tensor& x,
                                   const AdapterBatchData& adapters) const {
  const int64_t heads = adapters.speculative_heads();
  // One head after the other, so that each one's logits are contiguous.
  const Tensor out = context.workspace.take(DType::kFloat32, {heads, x.dim(0), weight_.dim(0)});
  adapters.for_each_run([&](int64_t begin, int64_t end, const AdapterSlot* slot) {
    if (slot == nullptr) return;
    const int64_t count = std::min(heads, static_cast<int64_t>(slot->medusa.size()));
    for (int64_t i = 0; i < count; ++i) {
      const Tensor logits = out.select(0, i).slice(0, begin, end);
      speculate_run(context, x.slice(0, begin, end), slot->medusa[static_cast<size_t>(i)], logits);
    }
  });
  return out.swap_axes(0, 1);
}

void MultiAdapterHead::speculate_run(Context& context, const Tensor& x, const MedusaHead& head,
                                     const Tensor& logits) const {
  const Workspace::Scope scope(context.workspace);
  Tensor y = x;
  for (const MedusaHead::Block& block : head.blocks) {
    const Tensor inner = ops::linear(context, y, block.weight, y.dtype);
    y = ops::add_silu(context, y, inner, block.bias);
  }
  ops::linear_into(context, y, head.output.empty() ? weight_ : head.output, logits);
  if (head.output.empty()) ops::softcap(context, logits, softcap_);
}

}  // namespace lorax
