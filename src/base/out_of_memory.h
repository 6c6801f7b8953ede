// When memory is short: what an allocation that fails is told as, and what is set aside for then.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/error.h"

namespace lorax {

// An allocation of known size that has failed. Others are std::bad_alloc.
class OutOfMemory : public Error {
 public:
  // "cannot allocate 1.50 GiB (1610612736 bytes): " and what limits there are.
  explicit OutOfMemory(uint64_t bytes);
};

// Whether it is one of the two.
bool is_out_of_memory(const std::exception_ptr& error) noexcept;

// What it says, in one line; of std::bad_alloc, which says nothing, that memory has run out. If
// there is none for the text either, less.
std::string message_of(const std::exception_ptr& error) noexcept;

// What a program that ends for want of memory says, with the limits and what to change.
std::string describe_out_of_memory(const std::exception_ptr& error) noexcept;

// The limits that this process has, each with what is left of it: its address space (RLIMIT_AS),
// its control groups, the machine's memory. `root` is where /proc and /sys lie; tests give their
// own.
std::string describe_memory_limits(const std::filesystem::path& root = "/");

// Where an allocation fails, operator new gives this process's reserve, a few megabytes, back to
// the allocator and tries again: so what must be told and put in order then finds the little that
// it needs. To be called once, early.
void set_memory_reserve_aside();
// The same for what does not go through operator new. Whether there was something to give.
bool release_memory_reserve() noexcept;
// Whether the reserve is there, taken again if need be: if not, new work should wait. True where
// none has been set aside. From any thread.
bool has_memory_reserve() noexcept;

}  // namespace lorax
