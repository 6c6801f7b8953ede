// How much memory the machine has, and how much of it this process can still take.
#pragma once

#include <cstdint>
#include <filesystem>

namespace lorax {

// Bytes of the machine's memory, as its kernel counts them; UINT64_MAX if it does not tell.
uint64_t total_memory_bytes(const std::filesystem::path& root = "/");

// Bytes that can be allocated and filled without swapping: what the kernel reports as available
// (which counts the page cache, as it gives way), or less where a control group's limit is nearer.
// UINT64_MAX if the system tells neither. `root` is where /proc and /sys lie; tests give their own.
uint64_t available_memory_bytes(const std::filesystem::path& root = "/");

}  // namespace lorax
