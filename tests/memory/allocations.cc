#include "allocations.h"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <limits>
#include <new>

namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max() / 2;

std::atomic<int64_t> left{kNever};  // allocations before the first that fails
std::atomic<int64_t> burst_size{0};
std::atomic<int64_t> failures{0};
constinit thread_local int spared = 0;

bool fails() {
  if (spared > 0) return false;
  const int64_t before = left.fetch_sub(1, std::memory_order_relaxed);
  if (before > 0 || before <= -burst_size.load(std::memory_order_relaxed)) return false;
  failures.fetch_add(1, std::memory_order_relaxed);
  return true;
}

void* allocate(size_t alignment, size_t size) {
  if (fails()) return nullptr;
  void* memory = nullptr;
  return posix_memalign(&memory, alignment, size > 0 ? size : 1) == 0 ? memory : nullptr;
}

void* allocate_or_throw(size_t alignment, size_t size) {
  if (void* memory = allocate(alignment, size)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(size_t size) { return allocate_or_throw(alignof(std::max_align_t), size); }
void* operator new(size_t size, std::align_val_t alignment) {
  return allocate_or_throw(static_cast<size_t>(alignment), size);
}
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return allocate(alignof(std::max_align_t), size);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }

extern "C" void* aligned_alloc(size_t alignment, size_t size) noexcept {
  return allocate(alignment, size);
}

namespace lorax::testing {

FailingAllocations::FailingAllocations(int64_t first, int64_t burst) {
  failures = 0;
  burst_size = burst;
  left = first;
}

void FailingAllocations::stop() { left = kNever; }
bool FailingAllocations::failed() { return failures > 0; }

Spared::Spared() { ++spared; }
Spared::~Spared() { --spared; }

}  // namespace lorax::testing
