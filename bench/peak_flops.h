// How fast this machine's threads can multiply and add: the ceiling of prefill on a CPU.
#pragma once

#include <string_view>

#include "base/thread_pool.h"

namespace lorax {

// FLOP/s of all threads of the pool over some milliseconds, by the multiply-add that the kernel of
// this name (MatmulKernel::instruction_set) is made of; NaN for a name without such a loop.
double peak_flops(ThreadPool& pool, std::string_view instruction_set);

}  // namespace lorax
