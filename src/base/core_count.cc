#include "base/core_count.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <sstream>
#include <string>
#include <thread>

#include "base/cgroup.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

int cores_of_affinity() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) == 0) return CPU_COUNT(&cores);
  return static_cast<int>(std::thread::hardware_concurrency());  // over CPU_SETSIZE cores
}

// Quota and period of CPU time in microseconds, as "max 100000" or "150000 100000" (version 2) or
// in two files (version 1, -1 meaning no quota), as cores; nothing if there is no quota.
std::optional<double> cores_of_quota(const fs::path& folder) {
  std::string text;
  if (const auto both = read_small_file(folder / "cpu.max")) {
    text = *both;
  } else {
    text = read_small_file(folder / "cpu.cfs_quota_us").value_or("") + " " +
           read_small_file(folder / "cpu.cfs_period_us").value_or("");
  }
  std::istringstream numbers(text);
  double quota = 0.0, period = 0.0;
  if (!(numbers >> quota >> period) || quota <= 0.0 || period <= 0.0) return std::nullopt;
  return quota / period;
}

}  // namespace

int usable_cores(const fs::path& root) {
  double cores = cores_of_affinity();
  for (const fs::path& folder : Cgroup(root).folders("cpu")) {
    if (const auto quota = cores_of_quota(folder)) cores = std::min(cores, std::ceil(*quota));
  }
  return std::max(1, static_cast<int>(cores));
}

}  // namespace lorax
