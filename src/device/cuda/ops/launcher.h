// Launches single operations, as the device performs them outside of programs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/cuda/ops/operation.h"
#include "device/cuda/products/linear.h"

namespace lorax::cuda {

// Not copyable; one call at a time, on the device that was current when it was made.
class Launcher {
 public:
  // Device memory that kernels use until they end.
  struct Room {
    void* scratch = nullptr;  // aligned to 256 bytes
    size_t scratch_bytes = 0;
    uint32_t* tickets = nullptr;  // of attention_decode and gemm_hopper: kDecodeTickets zeros
  };
  explicit Launcher(const Room& room);

  // Which kernels it takes follows from shapes and from the stream alone. Throws Error if a launch
  // is not accepted.
  void operator()(Stream stream, const Operation& operation);

 private:
  void launch(Stream stream, const LinearArgs& args);
  void launch(Stream stream, const GatedLinearArgs& args);
  void launch(Stream stream, const LoraLinearArgs& args);
  void launch(Stream stream, const GeluMulArgs& args);
  void launch(Stream stream, const NormArgs& args);
  void launch(Stream stream, const AddNormArgs& args);
  void launch(Stream stream, const RotaryStoreArgs& args);
  void launch(Stream stream, const AttentionArgs& args);

  Room room_;
  Linear linear_;
};

}  // namespace lorax::cuda
