// Low-rank products of the CPU device: Device::lora and Device::lora_embedding.
#pragma once

#include <memory>

#include "base/thread_pool.h"
#include "device/lora.h"

namespace lorax::cpu {

// Holds the scratch of all threads; one call at a time. A call allocates nothing unless it needs
// more scratch than any call before it.
class Lora {
 public:
  explicit Lora(ThreadPool& pool);
  ~Lora();

  void linear(const Tensor& x, LoraTargets targets, const LoraRows& rows, const Tensor& out);
  void embedding(const Tensor& ids, float multiplier, int64_t module, const LoraRows& rows,
                 const Tensor& out);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lorax::cpu
