#include "device/cuda/lora/lora.h"

#include <algorithm>

#include "device/cuda/runtime/cuda_error.h"

namespace lorax::cuda {
namespace {

// The terms of a part when n are cut, for decode's sake: it is bound by how many loads are under
// way. A row's sums depend on it, so it follows from n alone.
int64_t chunk_of(int64_t n) {
  const int64_t units = (n + kLoraChunkUnit - 1) / kLoraChunkUnit;
  return std::max<int64_t>(1, (units + kMaxLoraParts - 1) / kMaxLoraParts) * kLoraChunkUnit;
}

bool takes_tensor_cores(const LoraArgs& args) {
  return args.x.dtype != DType::kFloat32 && args.n % 8 == 0 && args.x.stride % 8 == 0 &&
         reinterpret_cast<uintptr_t>(args.x.data) % 16 == 0;
}

void expand(Stream stream, const LoraArgs& args, DType dtype) {
  if (dtype == DType::kFloat32) {
    lora_expand_float32(stream, args);
  } else {
    lora_expand(stream, args);
  }
  check(cudaGetLastError(), "lora_expand");
}

// Sets how A x is summed and where it goes. Returns the number of rows that there is room for.
int64_t lay_out(LoraArgs& args, int64_t n_rows, void* scratch, size_t scratch_bytes) {
  args.h = static_cast<float*>(scratch);
  args.chunk = chunk_of(args.n);
  const int64_t room = static_cast<int64_t>(scratch_bytes / sizeof(float)) /
                       (int64_t{args.n_targets} * kMaxLoraRank);
  const int64_t chunks = (args.n + args.chunk - 1) / args.chunk;
  // Chunks stay apart, for other blocks to take, where that fits.
  args.parts = takes_tensor_cores(args) && n_rows * chunks <= room ? static_cast<int>(chunks) : 1;
  return room;
}

}  // namespace

void lora(Stream stream, LoraArgs args, int64_t n_rows, void* scratch, size_t scratch_bytes) {
  const DType dtype = args.x.dtype;
  if (n_rows == 0 || args.n_segments == 0 || args.n_targets == 0) return;
  if (args.ids != nullptr) {
    args.first = 0;
    args.last = static_cast<int>(n_rows);
    return expand(stream, args, dtype);
  }
  const bool tensor_cores = takes_tensor_cores(args);
  const int64_t room = lay_out(args, n_rows, scratch, scratch_bytes);
  for (int64_t first = 0; first < n_rows; first += room) {
    args.first = static_cast<int>(first);
    args.last = static_cast<int>(std::min(n_rows, first + room));
    if (tensor_cores) {
      lora_shrink(stream, args);
    } else {
      lora_shrink_general(stream, args);
    }
    check(cudaGetLastError(), "lora_shrink");
    expand(stream, args, dtype);
  }
}

bool linear_lora(Stream stream, const LinearArgs& linear, LoraArgs args, int64_t n_rows,
                 void* scratch, size_t scratch_bytes) {
  if (n_rows == 0 || n_rows > linear.rows || args.n_segments == 0 || args.n_targets == 0 ||
      !takes_tensor_cores(args) || !takes_linear_hopper(stream, linear, args) ||
      n_rows > lay_out(args, n_rows, scratch, scratch_bytes)) {
    return false;
  }
  args.first = 0;
  args.last = static_cast<int>(n_rows);
  lora_shrink(stream, args);
  check(cudaGetLastError(), "lora_shrink");
  const bool taken = linear_hopper(stream, linear, args);
  check(cudaGetLastError(), "linear_hopper");
  return taken;
}

}  // namespace lorax::cuda
