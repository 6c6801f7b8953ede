// A bump arena for the intermediates of one step. A Scope gives back what was taken inside it, so
// the arena's size is that of the deepest moment, not the sum over layers. The same sequence of
// sizes gives the same addresses in every step.
#pragma once

#include <algorithm>
#include <cstddef>
#include <initializer_list>

#include "device/device_memory.h"
#include "device/tensor.h"

namespace lorax {

class Workspace {
 public:
  // Over `bytes` of device memory, taken now.
  Workspace(DeviceMemory& device, size_t bytes) : buffer_(device, bytes), capacity_(bytes) {}
  // Over nothing: hands out addresses that must not be read or written and records the peak. For a
  // dry run (device/dry_run.h) that sizes the real one.
  static Workspace measuring() { return Workspace(); }

  // Uninitialised, contiguous, aligned to 64 bytes. Valid until the enclosing Scope ends.
  Tensor take(DType dtype, std::initializer_list<int64_t> shape);

  size_t peak_bytes() const { return peak_; }

  class Scope {
   public:
    explicit Scope(Workspace& workspace) : workspace_(workspace), used_(workspace.used_) {}
    ~Scope() { workspace_.used_ = used_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Workspace& workspace_;
    size_t used_;
  };

 private:
  Workspace() = default;

  Buffer buffer_;
  size_t capacity_ = SIZE_MAX;
  size_t used_ = 0;
  size_t peak_ = 0;
};

}  // namespace lorax
