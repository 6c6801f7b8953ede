#include "server/adapter_directory.h"

#include <algorithm>
#include <system_error>

#include "adapters/merge_recipe.h"
#include "base/error.h"
#include "formats/json_file.h"
#include "formats/printable.h"
#include "server/api_error.h"
#include "text/utf8.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxDepth = 4;
constexpr std::chrono::seconds kListAge{1};

[[noreturn]] void bad_name(std::string_view name, std::string_view reason) {
  refuse("adapter_id", fmt::format("adapter \"{}\" {}", printable(name), reason));
}

[[noreturn]] void unknown(std::string_view name, std::string_view reason) {
  throw ApiError(ErrorKind::kUnknownModel,
                 fmt::format("adapter \"{}\" {}", printable(name), reason), "model");
}

// The forms that no path below the directory has.
void check_name(std::string_view name) {
  if (name.empty()) bad_name(name, "has no name; give one");
  if (name.size() > AdapterDirectory::kMaxNameBytes) {
    bad_name(name,
             fmt::format("has a name of more than {} bytes", AdapterDirectory::kMaxNameBytes));
  }
  if (std::ranges::any_of(name, is_control)) {
    bad_name(name, "has a control character in its name; leave it out");
  }
  if (!is_valid_utf8(name)) bad_name(name, "has a name that is not UTF-8");
}

void check_parts(std::string_view name) {
  if (name.front() == '/') {
    bad_name(name, "is an absolute path; name it by its path below the adapter directory");
  }
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") {
      bad_name(name, "has an empty part, \".\" or \"..\" in its path; name it by its plain path");
    }
    begin = end + 1;
  }
}

bool is_below(const fs::path& path, const fs::path& root) {
  const auto [end, unused] = std::mismatch(root.begin(), root.end(), path.begin(), path.end());
  return end == root.end() && path != root;
}

bool is_medusa_config(const fs::path& file) {
  constexpr uint64_t kMaxBytes = 64 << 10;
  try {
    return read_file(file, kMaxBytes).find("medusa_num_heads") != std::string::npos;
  } catch (const Error&) {
    return false;
  }
}

// The file that says that a folder holds an adapter: LoRA's, or that of Medusa heads.
std::optional<fs::path> config_of(const fs::path& folder) {
  std::error_code error;
  if (fs::path lora = folder / "adapter_config.json"; fs::is_regular_file(lora, error)) return lora;
  fs::path medusa = folder / "config.json";
  if (fs::is_regular_file(medusa, error) && is_medusa_config(medusa)) return medusa;
  return std::nullopt;
}

int64_t seconds_of(const fs::path& file) {
  std::error_code error;
  const fs::file_time_type time = fs::last_write_time(file, error);
  if (error) return 0;
  const auto since_epoch = std::chrono::file_clock::to_sys(time).time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(since_epoch).count();
}

}  // namespace

AdapterDirectory::AdapterDirectory(const std::optional<fs::path>& directory,
                                   const std::string& default_name)
    : default_name_(default_name) {
  if (!directory) return;
  std::error_code error;
  root_ = fs::canonical(*directory, error);
  if (error || !fs::is_directory(*root_, error)) {
    fail("--adapter-dir {}: is no directory that can be read; create it or name another",
         printable(directory->string()));
  }
  if (default_name.empty()) return;
  try {
    resolve(default_name);
  } catch (const ApiError& error) {
    fail("--adapter-id: {}", error.what());
  }
}

fs::path AdapterDirectory::locate(std::string_view name, const fs::path& path) const {
  if (!root_) {
    unknown(name, "cannot be served: the server has no adapters; start it with --adapter-dir");
  }
  std::error_code error;
  const fs::path found = fs::canonical(*root_ / path, error);
  if (error) unknown(name, "does not exist; /v1/models lists those that do");
  if (!is_below(found, *root_)) {
    bad_name(name, "does not lie below the adapter directory; move or copy it there");
  }
  if (!config_of(found)) {
    unknown(name, "is no adapter: its folder has no adapter_config.json");
  }
  return found;
}

std::string AdapterDirectory::resolve(std::string_view name) const {
  check_name(name);
  {
    const std::lock_guard lock(mutex_);
    if (const auto alias = aliases_.find(name); alias != aliases_.end()) return alias->second;
  }
  check_parts(name);
  return locate(name, fs::path(name)).string();
}

std::string AdapterDirectory::add_alias(const std::string& name, const std::string& path,
                                        bool replace) {
  check_name(name);
  check_name(path);
  const std::string id = locate(path, fs::path(path)).string();
  const std::lock_guard lock(mutex_);
  if (!replace && aliases_.contains(name)) {
    refuse("lora_name", fmt::format("The lora adapter '{}' has already been loaded. If you want to "
                                    "load the adapter in place, set 'load_inplace' to True.",
                                    name));
  }
  aliases_[name] = id;
  listed_at_.reset();
  return id;
}

std::string AdapterDirectory::remove_alias(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto alias = aliases_.find(name);
  if (alias == aliases_.end()) {
    throw ApiError(ErrorKind::kUnknownModel,
                   fmt::format("The lora adapter '{}' cannot be found.", printable(name)),
                   "lora_name");
  }
  std::string id = alias->second;
  aliases_.erase(alias);
  listed_at_.reset();
  return id;
}

void AdapterDirectory::scan(const fs::path& folder, int depth, std::vector<Entry>& out) const {
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code vanished;
    if (!entry->is_directory(vanished)) continue;
    const std::string name = entry->path().lexically_relative(*root_).string();
    const fs::path path = fs::canonical(entry->path(), vanished);
    if (vanished || !is_below(path, *root_) || std::ranges::any_of(name, is_control) ||
        name.size() > kMaxNameBytes || !is_valid_utf8(name)) {
      continue;
    }
    if (const std::optional<fs::path> config = config_of(path)) {
      out.push_back({name, path.string(), seconds_of(*config)});
    } else if (depth < kMaxDepth) {
      scan(entry->path(), depth + 1, out);
    }
  }
}

std::vector<AdapterDirectory::Entry> AdapterDirectory::list() const {
  const std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  if (listed_at_ && now - *listed_at_ < kListAge) return listed_;
  std::vector<Entry> entries;
  if (root_) scan(*root_, 1, entries);
  for (const auto& [name, path] : aliases_) {
    const auto same = std::ranges::find(entries, name, &Entry::name);
    if (same != entries.end()) entries.erase(same);
    const std::optional<fs::path> config = config_of(path);
    entries.push_back({name, path, config ? seconds_of(*config) : 0});
  }
  std::ranges::sort(entries, {}, &Entry::name);
  listed_ = std::move(entries);
  listed_at_ = now;
  return listed_;
}

std::string AdapterDirectory::name_of(std::string_view id) const {
  if (const std::optional<MergeRecipe> recipe = parse_merge_id(id)) {
    std::string names;
    for (const std::string& member : recipe->ids) {
      if (!names.empty()) names += ',';
      names += name_of(member);
    }
    return names;
  }
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, path] : aliases_) {
      if (path == id) return name;
    }
  }
  const fs::path path(id);
  return root_ && is_below(path, *root_) ? path.lexically_relative(*root_).string()
                                         : std::string(id);
}

}  // namespace lorax
