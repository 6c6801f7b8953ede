#include "device/cuda/runtime/memory_pool.h"

#include <cuda_runtime.h>

#include <iterator>
#include <utility>

#include "base/check.h"
#include "device/cuda/runtime/cuda_error.h"

namespace lorax::cuda {

// The driver's functions, found at run time: programs need no driver to be linked or to start.
struct MappingCalls {
  decltype(&cuDeviceGetAttribute) get_attribute = nullptr;
  decltype(&cuMemGetAllocationGranularity) get_granularity = nullptr;
  decltype(&cuMemCreate) create = nullptr;
  decltype(&cuMemRelease) release = nullptr;
  decltype(&cuMemAddressReserve) reserve = nullptr;
  decltype(&cuMemAddressFree) free_addresses = nullptr;
  decltype(&cuMemMap) map = nullptr;
  decltype(&cuMemUnmap) unmap = nullptr;
  decltype(&cuMemSetAccess) set_access = nullptr;
  bool found = true;  // all of them

  MappingCalls() {
    find("cuDeviceGetAttribute", get_attribute);
    find("cuMemGetAllocationGranularity", get_granularity);
    find("cuMemCreate", create);
    find("cuMemRelease", release);
    find("cuMemAddressReserve", reserve);
    find("cuMemAddressFree", free_addresses);
    find("cuMemMap", map);
    find("cuMemUnmap", unmap);
    find("cuMemSetAccess", set_access);
  }

 private:
  template <typename Function>
  void find(const char* name, Function& function) {
    void* address = nullptr;
    cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion(name, &address, 12000, cudaEnableDefault, &result);
#else
    const cudaError_t status = cudaGetDriverEntryPoint(name, &address, cudaEnableDefault, &result);
#endif
    found &= status == cudaSuccess && result == cudaDriverEntryPointSuccess;
    function = reinterpret_cast<Function>(address);
  }
};

namespace {

const MappingCalls& mapping_calls() {
  static const MappingCalls calls;
  return calls;
}

CUmemAllocationProp page_of(int index) {
  CUmemAllocationProp page{};
  page.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  page.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = index};
  return page;
}

void check_mapping(CUresult status, const char* call) {
  if (status != CUDA_SUCCESS) {
    fail("CUDA: {}: error {} of the driver", call, static_cast<int>(status));
  }
}

}  // namespace

bool MemoryPool::is_supported(int index) {
  const MappingCalls& calls = mapping_calls();
  int supported = 0;
  return calls.found &&
         calls.get_attribute(&supported, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
                             index) == CUDA_SUCCESS &&
         supported != 0;
}

MemoryPool::MemoryPool(int index, size_t bytes) : calls_(mapping_calls()), index_(index) {
  const CUmemAllocationProp page = page_of(index_);
  check_mapping(calls_.get_granularity(&page_bytes_, &page, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
                "cuMemGetAllocationGranularity");
  take_pages(bytes / page_bytes_);
}

MemoryPool::~MemoryPool() {
  cudaSetDevice(index_);
  LORAX_CHECK(blocks_.size() == idle_.size(), "{} blocks of a pool are in use", blocks_.size());
  for (const auto& [pages, address] : idle_) unmap(address);
  for (Page page : free_) calls_.release(page);
}

void MemoryPool::take_pages(size_t count) {
  const CUmemAllocationProp properties = page_of(index_);
  free_.reserve(count);
  while (free_.size() < count) {
    Page page{};
    const CUresult status = calls_.create(&page, page_bytes_, &properties, 0);
    if (status != CUDA_SUCCESS) {
      for (Page taken : free_) calls_.release(taken);
      if (status == CUDA_ERROR_OUT_OF_MEMORY) {
        fail("cuda:{}: out of memory: a pool of {:.2f} GB found only {:.2f} GB free", index_,
             static_cast<double>(count * page_bytes_) * 1e-9,
             static_cast<double>(free_.size() * page_bytes_) * 1e-9);
      }
      check_mapping(status, "cuMemCreate");
    }
    free_.push_back(page);
  }
}

size_t MemoryPool::size_of(size_t bytes) const {
  return (bytes + page_bytes_ - 1) / page_bytes_ * page_bytes_;
}

void* MemoryPool::allocate(size_t bytes) {
  if (bytes == 0) return nullptr;
  const size_t count = size_of(bytes) / page_bytes_;
  const std::lock_guard lock(mutex_);
  check(cudaSetDevice(index_), "cudaSetDevice");
  CUdeviceptr address = 0;
  if (const auto same = idle_.find(count); same != idle_.end()) {
    address = same->second;
    idle_.erase(same);
  } else {
    while (free_.size() < count && !idle_.empty()) {
      const auto largest = std::prev(idle_.end());
      const CUdeviceptr given_up = largest->second;
      idle_.erase(largest);
      unmap(given_up);
    }
    if (free_.size() < count) {
      fail("cuda:{}: a pool has {} bytes left, not {}", index_, free_.size() * page_bytes_, bytes);
    }
    address = map(count);
  }
  return reinterpret_cast<void*>(address);
}

void MemoryPool::deallocate(void* data, size_t) {
  if (data == nullptr) return;
  const CUdeviceptr address = reinterpret_cast<CUdeviceptr>(data);
  const std::lock_guard lock(mutex_);
  idle_.emplace(blocks_.at(address).size(), address);
}

CUdeviceptr MemoryPool::map(size_t count) {
  const size_t bytes = count * page_bytes_;
  CUdeviceptr address = 0;
  check_mapping(calls_.reserve(&address, bytes, 0, 0, 0), "cuMemAddressReserve");
  const Pages pages(free_.end() - static_cast<ptrdiff_t>(count), free_.end());
  CUresult status = CUDA_SUCCESS;
  size_t mapped = 0;
  for (; mapped < count && status == CUDA_SUCCESS; ++mapped) {
    status = calls_.map(address + mapped * page_bytes_, page_bytes_, 0, pages[mapped], 0);
    if (status != CUDA_SUCCESS) break;
  }
  if (status == CUDA_SUCCESS) {
    const CUmemAccessDesc access = {.location = page_of(index_).location,
                                    .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    status = calls_.set_access(address, bytes, &access, 1);
  }
  if (status != CUDA_SUCCESS) {
    unmap(address, mapped, count);
    check_mapping(status, "cuMemMap");
  }
  free_.resize(free_.size() - count);
  blocks_.emplace(address, pages);
  return address;
}

void MemoryPool::unmap(CUdeviceptr address) {
  const auto block = blocks_.find(address);
  const Pages pages = std::move(block->second);
  blocks_.erase(block);
  unmap(address, pages.size(), pages.size());
  free_.insert(free_.end(), pages.begin(), pages.end());
}

void MemoryPool::unmap(CUdeviceptr address, size_t mapped, size_t count) {
  for (size_t page = 0; page < mapped; ++page) {
    calls_.unmap(address + page * page_bytes_, page_bytes_);
  }
  calls_.free_addresses(address, count * page_bytes_);
}

}  // namespace lorax::cuda
