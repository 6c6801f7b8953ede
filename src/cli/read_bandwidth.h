// How fast this machine's threads can stream memory: the ceiling of decoding on a CPU.
#pragma once

#include <cstddef>

#include "base/thread_pool.h"

namespace lorax::cli {

// Reads [data, data + bytes) once with all threads of the pool. Returns GB/s.
double read_bandwidth(ThreadPool& pool, const void* data, size_t bytes);

}  // namespace lorax::cli
