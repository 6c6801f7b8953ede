// DoRA (Liu et al. 2024): the direction of a weight with its low-rank change, and a magnitude of
// its own.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "adapters/peft/adapter.h"

namespace lorax {

// magnitude / ||W + scale * B A||, the norm taken over what feeds one output: rows of a linear
// layer's W [out, in], columns of an embedding's [V, D]. In float32, as PEFT's get_weight_norm.
// [out] of them. W is `own` if that is given, else what `base_rows` gives.
std::vector<float> dora_gain(
    const LoraWeights& weights, const AdapterModule& module, const HostTensor* own,
    const std::function<std::vector<float>(int64_t first, int64_t count)>& base_rows);

}  // namespace lorax
