// Memory of the CPU device.
#pragma once

#include <cstddef>
#include <memory>

namespace lorax::cpu {

// At least `bytes` bytes (nullptr for 0), aligned to 64. From 1 MiB on they start on a 2 MiB
// boundary and the system is asked for huge pages: reading weights is bound by memory bandwidth and
// by the TLB. Nothing is touched, so a page lies with the thread that first writes to it. Throws
// Error if there is no memory.
void* allocate(size_t bytes);
// Of the same `bytes`.
void deallocate(void* data, size_t bytes);

// An array of float of the above memory; contents undefined.
class FloatArray {
 public:
  explicit FloatArray(size_t size)
      : data_(static_cast<float*>(allocate(size * sizeof(float))), Deleter{size}) {}

  float* data() const { return data_.get(); }

 private:
  struct Deleter {
    size_t size;
    void operator()(float* data) const { deallocate(data, size * sizeof(float)); }
  };
  std::unique_ptr<float[], Deleter> data_;
};

}  // namespace lorax::cpu
