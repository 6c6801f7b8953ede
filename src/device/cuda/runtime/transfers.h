// Copies between host and device that run beside the kernels, on a stream of their own.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <mutex>
#include <vector>

#include "base/thread_pool.h"

namespace lorax::cuda {

// Any thread; one copy at a time. Pageable memory goes through pinned pieces: while the GPU copies
// from some, the host fills others. Uploads are filled by a few threads, as one alone reads memory
// at a fraction of what the bus takes.
class Transfers {
 public:
  // Of the device that is current now, and must be in every call.
  Transfers();
  ~Transfers();
  Transfers(const Transfers&) = delete;
  Transfers& operator=(const Transfers&) = delete;

  // Have finished when they return.
  void upload(void* to, const void* from, size_t bytes);
  void download(void* to, const void* from, size_t bytes);

 private:
  struct Piece {
    void* data = nullptr;
    cudaEvent_t done = nullptr;  // the copy from or to it
  };

  // Fills a piece with `bytes` bytes and sends it.
  cudaError_t send(Piece& piece, void* to, const void* from, size_t bytes);

  int index_ = 0;  // of the device
  std::mutex mutex_;
  cudaStream_t stream_ = nullptr;
  ThreadPool fillers_;
  std::vector<Piece> pieces_;  // two of each filler
};

}  // namespace lorax::cuda
