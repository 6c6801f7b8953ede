#include "device/cpu/memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

#include "base/check.h"
#include "base/out_of_memory.h"

namespace lorax::cpu {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kLarge = size_t{1} << 20;

constexpr size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

void* map_huge(size_t bytes) {
  if (bytes > SIZE_MAX / 2) throw OutOfMemory(bytes);
  const size_t size = round_up(bytes, kHugePage);
  // One huge page more than needed, so that an aligned range lies within; the rest is given back.
  void* mapped =
      mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw OutOfMemory(bytes);
  char* begin = static_cast<char*>(mapped);
  const size_t before =
      round_up(reinterpret_cast<uintptr_t>(begin), kHugePage) - reinterpret_cast<uintptr_t>(begin);
  const size_t after = kHugePage - before;
  if (before > 0) munmap(begin, before);
  if (after > 0) munmap(begin + before + size, after);
  madvise(begin + before, size, MADV_HUGEPAGE);  // a wish: without it, small pages serve
  return begin + before;
}

}  // namespace

void* allocate(size_t bytes) {
  if (bytes == 0) return nullptr;
  if (bytes >= kLarge) return map_huge(bytes);
  void* data = std::aligned_alloc(kAlignment, round_up(bytes, kAlignment));
  if (data == nullptr) throw OutOfMemory(bytes);
  return data;
}

void deallocate(void* data, size_t bytes) {
  if (bytes >= kLarge) {
    LORAX_CHECK(munmap(data, round_up(bytes, kHugePage)) == 0, "deallocation of {} bytes", bytes);
  } else {
    std::free(data);
  }
}

}  // namespace lorax::cpu
