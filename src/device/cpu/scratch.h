// Memory that grows to the largest size asked for and is never initialised: after warm-up asking
// allocates nothing.
#pragma once

#include <cstddef>

#include "device/cpu/memory.h"

namespace lorax::cpu {

class Scratch {
 public:
  Scratch() = default;
  ~Scratch() { release(); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // At least `bytes`; what an earlier call gave is gone if it was smaller.
  char* ensure(size_t bytes) {
    if (bytes > bytes_) {
      release();
      data_ = static_cast<char*>(allocate(bytes));
      bytes_ = bytes;
    }
    return data_;
  }

 private:
  void release() {
    if (data_ != nullptr) deallocate(data_, bytes_);
    data_ = nullptr;
    bytes_ = 0;
  }

  char* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace lorax::cpu
