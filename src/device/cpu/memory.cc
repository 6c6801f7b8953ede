#include "device/cpu/memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

#include "base/check.h"
#include "base/error.h"
#include "base/memory_info.h"

namespace lorax::cpu {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kLarge = size_t{1} << 20;

constexpr size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

[[noreturn]] void fail_for_want_of(size_t bytes) {
  fail("cannot allocate {:.2f} GiB of memory: the system has {:.2f} GiB left for this process",
       static_cast<double>(bytes) / (1u << 30),
       static_cast<double>(available_memory_bytes()) / (1u << 30));
}

void* map_huge(size_t bytes) {
  if (bytes > SIZE_MAX / 2) fail_for_want_of(bytes);
  const size_t size = round_up(bytes, kHugePage);
  // One huge page more than needed, so that an aligned range lies within; the rest is given back.
  void* mapped =
      mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) fail_for_want_of(bytes);
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
  if (data == nullptr) fail_for_want_of(bytes);
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
