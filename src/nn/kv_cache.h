// The paged key/value memory of all layers.
#pragma once

#include <cstdint>
#include <vector>

#include "device/device.h"

namespace lorax {

// What a model needs cached per token.
struct KvShape {
  int64_t layers = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  DType dtype = DType::kFloat32;

  size_t bytes_per_token() const {
    return static_cast<size_t>(2 * layers * kv_heads * head_dim) * size_of(dtype);
  }
};

class KvCache {
 public:
  // Tokens per page. A constant of the cache: models and kernels read it off the tensors.
  static constexpr int kBlockSize = 16;

  KvCache(DeviceMemory& device, const KvShape& shape, int64_t blocks);

  // One entry per layer.
  const std::vector<PagedKv>& layers() const { return layers_; }
  int64_t blocks() const { return blocks_; }

 private:
  int64_t blocks_;
  Buffer buffer_;
  std::vector<PagedKv> layers_;
};

}  // namespace lorax
