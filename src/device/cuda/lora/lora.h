// Low-rank products on the GPU: which kernels take which, and in how many pieces.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "device/cuda/ops/kernels.h"

namespace lorax::cuda {

// Adds the low-rank parts of rows [0, n_rows) of `args`, whose first, last, chunk, parts and h are
// set here. Two launches, or one of an embedding, for each piece of rows that `scratch` holds A x
// of: hundreds at least, thousands where they must be. What is launched follows from shapes alone.
void lora(Stream stream, LoraArgs args, int64_t n_rows, void* scratch, size_t scratch_bytes);

// linear, then lora, in two launches for a few rows: A x, and the product with the low-rank parts.
// False, and nothing is done, where linear_hopper does not take it.
bool linear_lora(Stream stream, const LinearArgs& linear, LoraArgs args, int64_t n_rows,
                 void* scratch, size_t scratch_bytes);

}  // namespace lorax::cuda
