#include "nn/kv_cache.h"

namespace lorax {

KvCache::KvCache(DeviceMemory& device, const KvShape& shape, int64_t blocks)
    : blocks_(blocks),
      buffer_(device, static_cast<size_t>(blocks * kBlockSize) * shape.bytes_per_token()) {
  char* data = static_cast<char*>(buffer_.data());
  auto take = [&] {
    const Tensor pages(data, shape.dtype, {blocks, kBlockSize, shape.kv_heads, shape.head_dim});
    data += pages.bytes();
    return pages;
  };
  layers_.reserve(static_cast<size_t>(shape.layers));
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    const Tensor key = take();
    const Tensor value = take();
    layers_.push_back({key, value});
  }
}

}  // namespace lorax
