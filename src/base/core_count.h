// How many cores this process may use.
#pragma once

#include <filesystem>

namespace lorax {

// At least 1: the cores that this process is allowed to run on, or fewer where a control group
// gives it less time than that (rounded up). `root` is where /proc and /sys lie; tests give their
// own.
int usable_cores(const std::filesystem::path& root = "/");

}  // namespace lorax
