#include "device/cuda/transfers.h"

#include <algorithm>
#include <cstring>

#include "device/cuda/cuda_error.h"

namespace lorax::cuda {
namespace {

constexpr size_t kPieceBytes = size_t{2} << 20;

bool is_pinned(const void* data) {
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, data), "cudaPointerGetAttributes");
  return attributes.type == cudaMemoryTypeHost;
}

}  // namespace

Transfers::Transfers() {
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
    size_t next = 0;
    for (size_t at = 0; at < bytes; at += kPieceBytes) {
      Piece& piece = pieces_[next++ % pieces_.size()];
      const size_t size = std::min(kPieceBytes, bytes - at);
      check(cudaEventSynchronize(piece.done), "upload");
      std::memcpy(piece.data, static_cast<const char*>(from) + at, size);
      check(cudaMemcpyAsync(static_cast<char*>(to) + at, piece.data, size, cudaMemcpyHostToDevice,
                            stream_),
            "upload");
      check(cudaEventRecord(piece.done, stream_), "upload");
    }
  }
  check(cudaStreamSynchronize(stream_), "upload");
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
