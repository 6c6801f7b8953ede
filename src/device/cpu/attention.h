// Attention on the CPU: spreads the tiles of attention_tile.h over the threads.
#pragma once

#include <memory>

#include "base/thread_pool.h"
#include "device/device.h"

namespace lorax::cpu {

// Holds the scratch of all threads; one call at a time. A call allocates nothing unless it has more
// tiles of query rows than any call before it.
class Attention {
 public:
  explicit Attention(ThreadPool& pool);
  ~Attention();

  // The contract of Device::attention.
  void operator()(const Tensor& q, const PagedKv& kv, const AttentionBatch& batch,
                  const AttentionOptions& options, const Tensor& out);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lorax::cpu
