// The second half of a low-rank product, on the calling thread.
#pragma once

#include <cstdint>

#include "device/lora.h"

namespace lorax::cpu {

// out[rows[i]] = gain * (out[rows[i]] + h[i] B + bias) over panels [begin, end) of the entry's B.
// Each element's sum runs over ascending ranks, whatever rows and panels are computed beside it.
struct LoraExpansion {
  const LoraEntry& entry;
  DType dtype;          // of B
  const float* h;       // [rows, rank], already times scale
  const int32_t* rows;  // rows of out
  int64_t count;        // of them
  const Tensor& out;    // float32 or model dtype
  int64_t column;       // of out where the module's output begins
  int64_t columns;      // of the module
};
void expand_lora(const LoraExpansion& expansion, int64_t begin, int64_t end);

}  // namespace lorax::cpu
