// How much memory the machine has, and how much of it this process can still take.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace lorax {

struct MemoryLimit {
  uint64_t bytes = 0;
  uint64_t left = 0;
};

// What limits this process's memory; nothing where there is no such limit, or the system does not
// tell.
struct MemoryLimits {
  std::optional<MemoryLimit> address_space;  // RLIMIT_AS: `ulimit -v`
  std::optional<MemoryLimit> cgroup;         // of its control groups the one with the least left
  std::optional<MemoryLimit> machine;
};

// `root` is where /proc and /sys lie; tests give their own.
MemoryLimits memory_limits(const std::filesystem::path& root = "/");

// Bytes of the machine's memory, as its kernel counts them; UINT64_MAX if it does not tell.
uint64_t total_memory_bytes(const std::filesystem::path& root = "/");

// Bytes that can be allocated and filled without swapping: what the kernel reports as available
// (which counts the page cache, as it gives way), or less where the limit of a control group or of
// the address space is nearer. UINT64_MAX if the system tells none of them.
uint64_t available_memory_bytes(const std::filesystem::path& root = "/");

}  // namespace lorax
