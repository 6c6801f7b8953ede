// Reads the limits that the system sets for this process's control group (containers, systemd
// slices), version 1 or 2.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lorax {

class Cgroup {
 public:
  // `root` is where /proc and /sys lie; tests give their own.
  explicit Cgroup(std::filesystem::path root = "/") : root_(std::move(root)) {}

  // The folders that limit `controller` ("memory", "cpu"), innermost first; a limit holds for all
  // folders below the one that names it. Empty if there is none. In a container the path that /proc
  // gives may lie outside what is mounted; then only the mounted part is listed.
  std::vector<std::filesystem::path> folders(std::string_view controller) const;

 private:
  std::filesystem::path root_;
};

// The whole of a small file; nothing if it cannot be read.
std::optional<std::string> read_small_file(const std::filesystem::path& path);

}  // namespace lorax
