// What happens once, at the start, so that it does not happen beside requests.
#pragma once

#include "engine/run/model_runner.h"
#include "engine/sample/sampler.h"

namespace lorax {

// Runs steps over no request's tokens; the runner's pages must be in nobody's hands. Where the
// device can capture: prompts of all sizes, with and without adapters, so that kernels are loaded
// and products of each size have their algorithm, every graph of a decode step, and every way to
// choose tokens. Else a step of one token. with_adapters: steps may have them; slot 0 must be
// empty.
void warm_up(ModelRunner& runner, Sampler& sampler, bool with_adapters);

}  // namespace lorax
