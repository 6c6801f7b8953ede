#include "base/cgroup.h"

#include <fmt/format.h>

#include <fstream>
#include <sstream>

namespace lorax {
namespace {

namespace fs = std::filesystem;

// Whether a comma-separated list has `name`.
bool lists(std::string_view list, std::string_view name) {
  while (!list.empty()) {
    const size_t comma = list.find(',');
    if (list.substr(0, comma) == name) return true;
    if (comma == std::string_view::npos) break;
    list.remove_prefix(comma + 1);
  }
  return false;
}

}  // namespace

std::vector<fs::path> Cgroup::folders(std::string_view controller) const {
  // Lines are "hierarchy:controllers:path"; version 2 has an empty list of controllers.
  std::istringstream lines(read_small_file(root_ / "proc/self/cgroup").value_or(""));
  fs::path mount;
  std::string path;
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string_view controllers =
        std::string_view(line).substr(first + 1, second - first - 1);
    if (lists(controllers, controller)) {
      mount = root_ / "sys/fs/cgroup" / controller;
      path = line.substr(second + 1);
      break;  // version 1 holds this controller, whatever version 2 has mounted beside it
    }
    if (controllers.empty()) {
      mount = root_ / "sys/fs/cgroup";
      path = line.substr(second + 1);
    }
  }
  std::vector<fs::path> found;
  if (mount.empty()) return found;
  std::error_code ignored;
  for (fs::path relative = fs::path(path).relative_path(); !relative.empty();
       relative = relative.parent_path()) {
    if (fs::is_directory(mount / relative, ignored)) found.push_back(mount / relative);
  }
  if (fs::is_directory(mount, ignored)) found.push_back(mount);
  return found;
}

std::optional<std::string> read_small_file(const fs::path& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::ostringstream text;
  text << file.rdbuf();
  return std::move(text).str();
}

}  // namespace lorax
