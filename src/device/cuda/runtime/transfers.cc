#include "device/cuda/runtime/transfers.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/core_count.h"
#include "device/cuda/runtime/cuda_error.h"

namespace lorax::cuda {
namespace {

constexpr size_t kPieceBytes = size_t{2} << 20;
constexpr int kMostFillers = 4;

bool is_pinned(const void* data) {
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, data), "cudaPointerGetAttributes");
  return attributes.type == cudaMemoryTypeHost;
}

}  // namespace

Transfers::Transfers()
    : fillers_(std::min(kMostFillers, usable_cores())),
      pieces_(static_cast<size_t>(2 * fillers_.size())) {
  check(cudaGetDevice(&index_), "cudaGetDevice");
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  for (Piece& piece : pieces_) {
    check(cudaHostAlloc(&piece.data, kPieceBytes, cudaHostAllocDefault), "cudaHostAlloc");
    check(cudaEventCreateWithFlags(&piece.done, cudaEventDisableTiming), "cudaEventCreate");
  }
}

Transfers::~Transfers() {
  for (Piece& piece : pieces_) {
    cudaEventDestroy(piece.done);
    cudaFreeHost(piece.data);
  }
  cudaStreamDestroy(stream_);
}

void Transfers::upload(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  const std::lock_guard lock(mutex_);
  if (is_pinned(from)) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "upload");
  } else {
    const size_t pieces = (bytes + kPieceBytes - 1) / kPieceBytes;
    std::vector<size_t> turns(static_cast<size_t>(fillers_.size()));
    std::atomic<cudaError_t> status = cudaSuccess;
    fillers_.parallel_for(static_cast<int64_t>(pieces), [&](int64_t index, int filler) {
      const auto worker = static_cast<size_t>(filler);
      const size_t at = static_cast<size_t>(index) * kPieceBytes;
      Piece& piece = pieces_[2 * worker + turns[worker]++ % 2];
      const cudaError_t sent =
          send(piece, static_cast<char*>(to) + at, static_cast<const char*>(from) + at,
               std::min(kPieceBytes, bytes - at));
      if (sent != cudaSuccess) status = sent;
    });
    check(status, "upload");
  }
  check(cudaStreamSynchronize(stream_), "upload");
}

// Runs on the pool's threads, which must not throw.
cudaError_t Transfers::send(Piece& piece, void* to, const void* from, size_t bytes) {
  cudaError_t status = cudaSetDevice(index_);
  if (status == cudaSuccess) status = cudaEventSynchronize(piece.done);
  if (status != cudaSuccess) return status;
  std::memcpy(piece.data, from, bytes);
  status = cudaMemcpyAsync(to, piece.data, bytes, cudaMemcpyHostToDevice, stream_);
  return status == cudaSuccess ? cudaEventRecord(piece.done, stream_) : status;
}

void Transfers::download(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  const std::lock_guard lock(mutex_);
  if (is_pinned(to)) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "download");
    check(cudaStreamSynchronize(stream_), "download");
    return;
  }
  const auto start = [&](size_t at) {
    if (at >= bytes) return;
    Piece& piece = pieces_[at / kPieceBytes % pieces_.size()];
    check(cudaMemcpyAsync(piece.data, static_cast<const char*>(from) + at,
                          std::min(kPieceBytes, bytes - at), cudaMemcpyDeviceToHost, stream_),
          "download");
    check(cudaEventRecord(piece.done, stream_), "download");
  };
  start(0);
  for (size_t at = 0; at < bytes; at += kPieceBytes) {
    start(at + kPieceBytes);
    Piece& piece = pieces_[at / kPieceBytes % pieces_.size()];
    check(cudaEventSynchronize(piece.done), "download");
    std::memcpy(static_cast<char*>(to) + at, piece.data, std::min(kPieceBytes, bytes - at));
  }
}

}  // namespace lorax::cuda
