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

// What the control group of this folder allows; nothing if it sets no limit.
std::optional<MemoryLimit> limit_in(const fs::path& folder) {
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
  return MemoryLimit{*limit, minus(*limit, minus(*used, cached))};
}

// As /proc has it, so that tests can give another: "Max address space  <soft>  <hard>  bytes".
std::optional<MemoryLimit> address_space_limit(const fs::path& root) {
  constexpr std::string_view kName = "Max address space";
  std::istringstream lines(read_small_file(root / "proc/self/limits").value_or(""));
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(kName)) continue;
    std::istringstream words(line.substr(kName.size()));
    uint64_t limit = 0;
    if (!(words >> limit)) return std::nullopt;  // "unlimited"
    const uint64_t used = read_field(root / "proc/self/status", "VmSize:").value_or(0) * 1024;
    return MemoryLimit{limit, minus(limit, used)};
  }
  return std::nullopt;
}

}  // namespace

uint64_t total_memory_bytes(const fs::path& root) {
  const auto kilobytes = read_field(root / "proc/meminfo", "MemTotal:");
  return kilobytes ? *kilobytes * 1024 : UINT64_MAX;
}

MemoryLimits memory_limits(const fs::path& root) {
  MemoryLimits limits;
  limits.address_space = address_space_limit(root);
  for (const fs::path& folder : Cgroup(root).folders("memory")) {
    const std::optional<MemoryLimit> limit = limit_in(folder);
    if (limit && (!limits.cgroup || limit->left < limits.cgroup->left)) limits.cgroup = limit;
  }
  const auto kilobytes = read_field(root / "proc/meminfo", "MemAvailable:");
  if (kilobytes) limits.machine = MemoryLimit{total_memory_bytes(root), *kilobytes * 1024};
  return limits;
}

uint64_t available_memory_bytes(const fs::path& root) {
  const MemoryLimits limits = memory_limits(root);
  uint64_t available = UINT64_MAX;
  for (const auto& limit : {limits.machine, limits.cgroup, limits.address_space}) {
    if (limit) available = std::min(available, limit->left);
  }
  return available;
}

}  // namespace lorax
