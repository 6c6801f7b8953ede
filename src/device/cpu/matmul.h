// x * weight^T on the CPU, for any number of rows, at one summation order.
#pragma once

#include <memory>

#include "base/thread_pool.h"
#include "device/tensor.h"

namespace lorax::cpu {

struct MatmulKernel;

// Holds the scratch of all threads, which grows when a larger x first comes; one call at a time.
class Matmul {
 public:
  // `kernel`: what to compute with, for tests; by default the fastest for this processor and dtype.
  explicit Matmul(ThreadPool& pool, const MatmulKernel* kernel = nullptr);
  ~Matmul();

  // The contract of Device::linear.
  void operator()(const Tensor& x, const Tensor& weight, const Tensor& out);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lorax::cpu
