// Tensors as the kernels take them: the arguments of kernels.h from those of device/device.h.
#pragma once

#include "device/cuda/ops/operation.h"
#include "device/device.h"

namespace lorax::cuda {

Rows rows_of(const Tensor& x);

LogitRows logit_rows(const Tensor& logits);

LinearArgs linear_args(const Tensor& x, const Tensor& weight, const Tensor& out);

NormArgs norm_args(const Tensor& x, const Tensor& weight, float eps, const Tensor& out);

// The low-rank parts of `targets`, as far as x and embeddings have them in common.
LoraArgs lora_args(LoraTargets targets, const LoraRows& rows, const Tensor& out);
// Those of x.
LoraArgs lora_args(const Tensor& x, LoraTargets targets, const LoraRows& rows, const Tensor& out);

RotaryStoreArgs rotary_store_args(const Tensor& q, const Tensor& k, const Tensor& v,
                                  const Tensor& positions, const Tensor& cos, const Tensor& sin,
                                  const Tensor& slots, const PagedKv& kv);

AttentionArgs attention_args(const Tensor& q, const PagedKv& kv, const AttentionBatch& batch,
                             const AttentionOptions& options, const Tensor& out);

}  // namespace lorax::cuda
