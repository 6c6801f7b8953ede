// Copies between host and device that run beside the kernels, on a stream of their own.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <mutex>

namespace lorax::cuda {

// Any thread; one copy at a time. Pageable memory goes through two pinned pieces in turn: while the
// GPU copies from one, the host fills the other.
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

  std::mutex mutex_;
  cudaStream_t stream_ = nullptr;
  std::array<Piece, 2> pieces_;
};

}  // namespace lorax::cuda
