// device/cuda/ops/launch.cuh, emulated: a launch ends before it returns.
#pragma once

#include "device/cuda/runtime/stream.h"
#include "emulator.h"

namespace lorax::cuda {

template <typename... Parameters, typename... Arguments>
void launch_clusters(Stream, dim3 grid, unsigned cluster, unsigned threads, size_t,
                     void (*kernel)(Parameters...), Arguments&&... arguments) {
  emulator::run(grid.x, cluster, threads, [&] { kernel(static_cast<Parameters>(arguments)...); });
}

template <typename... Parameters, typename... Arguments>
void launch(Stream stream, dim3 grid, unsigned threads, size_t shared_bytes,
            void (*kernel)(Parameters...), Arguments&&... arguments) {
  launch_clusters(stream, grid, 1, threads, shared_bytes, kernel, arguments...);
}

inline void start_next() {}
inline void wait_for_previous() {}
inline void prefetch_to_l2(const void*, uint32_t) {}

}  // namespace lorax::cuda
