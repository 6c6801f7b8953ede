#include "base/memory_info.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>

#include "base/cgroup.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

// The number a file starts with; nothing for "max" or no file.
std::optional<uint64_t> read_number(const fs::path& path) {
  const std::string text = read_small_file(path).value_or("");
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  return value;
}

// The number after the word `key` in a file of "key number ..." lines.
std::optional<uint64_t> read_field(const fs::path& path, std::string_view key) {
  std::istringstream lines(read_small_file(path).value_or(""));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name;
    uint64_t value = 0;
    if (words >> name >> value && name == key) return value;
  }
  return std::nullopt;
}

uint64_t minus(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

// What the control group of this folder leaves; nothing if it sets no limit.
std::optional<uint64_t> left_in(const fs::path& folder) {
  std::optional<uint64_t> limit = read_number(folder / "memory.max");
  std::optional<uint64_t> used = read_number(folder / "memory.current");
  std::string_view file_cache = "file";
  if (!used) {  // version 1, where no limit is a number beyond any memory
    limit = read_number(folder / "memory.limit_in_bytes");
    used = read_number(folder / "memory.usage_in_bytes");
    file_cache = "total_cache";
  }
  if (!limit || !used) return std::nullopt;
  // Cached files count as used, but are dropped when the memory is needed.
  const uint64_t cached = read_field(folder / "memory.stat", file_cache).value_or(0);
  return minus(*limit, minus(*used, cached));
}

}  // namespace

uint64_t total_memory_bytes(const fs::path& root) {
  const auto kilobytes = read_field(root / "proc/meminfo", "MemTotal:");
  return kilobytes ? *kilobytes * 1024 : UINT64_MAX;
}

uint64_t available_memory_bytes(const fs::path& root) {
  uint64_t available = UINT64_MAX;
  if (const auto kilobytes = read_field(root / "proc/meminfo", "MemAvailable:")) {
    available = *kilobytes * 1024;
  }
  for (const fs::path& folder : Cgroup(root).folders("memory")) {
    if (const auto left = left_in(folder)) available = std::min(available, *left);
  }
  return available;
}

}  // namespace lorax
