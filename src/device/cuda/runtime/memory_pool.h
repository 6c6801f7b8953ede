// Memory for adapters, which come and go beside running kernels: cudaMalloc and cudaFree would wait
// for those. Pages of 2 MiB are taken once and mapped, any of them in any order, behind the
// addresses of a block (CUDA's virtual memory management).
#pragma once

#include <cuda.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "device/device_pool.h"

namespace lorax::cuda {

struct MappingCalls;

class MemoryPool final : public DevicePool {
 public:
  // Of the GPU `index`, which must be able to map memory (is_supported). Throws Error if it has
  // less than `bytes`.
  MemoryPool(int index, size_t bytes);
  ~MemoryPool() override;
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  static bool is_supported(int index);

  // Whole pages.
  size_t size_of(size_t bytes) const override;
  void* allocate(size_t bytes) override;
  void deallocate(void* data, size_t bytes) override;

 private:
  using Page = CUmemGenericAllocationHandle;
  using Pages = std::vector<Page>;
  // Blocks that are mapped. Those that were given back stay so: adapters are mostly of one size,
  // and the next one takes the place as it is.
  using Idle = std::multimap<size_t, CUdeviceptr>;  // by number of pages

  void take_pages(size_t count);
  // From free_ to new addresses.
  CUdeviceptr map(size_t count);
  // The pages of the block go back to free_.
  void unmap(CUdeviceptr address);
  // Undoes the first `mapped` pages of a block.
  void unmap(CUdeviceptr address, size_t mapped, size_t count);

  const MappingCalls& calls_;
  int index_;
  size_t page_bytes_ = 0;
  std::mutex mutex_;
  Pages free_;
  std::unordered_map<CUdeviceptr, Pages> blocks_;  // in use and idle
  Idle idle_;
};

}  // namespace lorax::cuda
