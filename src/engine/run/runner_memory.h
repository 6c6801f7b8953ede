// What a ModelRunner takes of a device's memory beside its pages, known before there is one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "models/causal_lm.h"

namespace lorax {

struct RunnerLimits;

struct RunnerMemory {
  size_t workspace = 0;    // bytes of what a step computes
  size_t step_inputs = 0;  // bytes of what the host tells the device for a step
  size_t head_inputs = 0;  // and for a call of the head alone
  int64_t vocab_size = 0;

  size_t bytes() const { return workspace + step_inputs + head_inputs; }
};

// By running the real forward and head of the largest step on a DryRunDevice: neither a device nor
// memory is needed. with_adapters: sequences may have them.
RunnerMemory measure_runner(const FlashCausalLM& model, const RunnerLimits& limits,
                            bool with_adapters);

}  // namespace lorax
