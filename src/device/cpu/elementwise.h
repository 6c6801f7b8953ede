// The row-wise kernels of the CPU device: each computes a part of the Device operation of its name
// (device/device.h has the contracts) on the calling thread, with the widest vectors this processor
// has. CpuDevice hands the parts to its threads.
#pragma once

#include <cstdint>

#include "device/tensor.h"

namespace lorax::cpu {

// Row `row` of the operation. x and out may be the same tensor.
void embedding(const Tensor& ids, const Tensor& table, float scale, const Tensor& out, int64_t row);
void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out, int64_t row);
void rms_norm_add(const Tensor& x, const Tensor& weight, float eps, const Tensor& residual,
                  int64_t row);
void add_silu(const Tensor& x, const Tensor& h, const Tensor& bias, const Tensor& out, int64_t row);
void rotary(const Tensor& x, const Tensor& positions, const Tensor& cos, const Tensor& sin,
            int64_t row);

// Columns [begin, end) of row `row` of `out`.
void gelu_tanh_mul(const Tensor& gate_up, const Tensor& out, int64_t row, int64_t begin,
                   int64_t end);

// Elements [begin, end) of x, which is contiguous.
void softcap(const Tensor& x, float cap, int64_t begin, int64_t end);

}  // namespace lorax::cpu
