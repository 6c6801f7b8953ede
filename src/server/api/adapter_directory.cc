#include "server/api/adapter_directory.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <system_error>

#include "adapters/merge/merge_recipe.h"
#include "base/error.h"
#include "base/utf8.h"
#include "formats/printable.h"
#include "server/api/api_error.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kListAge{1};
constexpr std::string_view kNoSuchAdapter = "does not exist; /v1/models lists those that do";

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
  if (std::ranges::count(name, '/') >= AdapterDirectory::kMaxDepth) {
    bad_name(name, fmt::format("lies more than {} folders below the adapter directory; move it up",
                               AdapterDirectory::kMaxDepth));
  }
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

bool is_medusa_config(const Folder& folder, const std::string& name) {
  constexpr uint64_t kMaxBytes = 64 << 10;
  try {
    return folder.read(name, kMaxBytes).find("medusa_num_heads") != std::string::npos;
  } catch (const Error&) {
    return false;
  }
}

// When the file was written that says that a folder holds an adapter, LoRA's or that of Medusa
// heads, in seconds since 1970; nothing if there is no such file within the bounds.
std::optional<int64_t> adapter_time(const Folder& folder) {
  for (const char* name : {"adapter_config.json", "config.json"}) {
    const std::optional<struct stat> status = folder.find(name);
    if (!status || !S_ISREG(status->st_mode)) continue;
    const bool is_lora = std::string_view(name) == "adapter_config.json";
    if (is_lora || is_medusa_config(folder, name)) return status->st_mtim.tv_sec;
  }
  return std::nullopt;
}

std::optional<int64_t> adapter_time(const fs::path& path, const FileBounds& bounds) {
  try {
    return adapter_time(Folder::open(path, bounds));
  } catch (const Error&) {
    return std::nullopt;
  }
}

void replace_all(std::string& text, const std::string& part, std::string_view with) {
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at)) {
    text.replace(at, part.size(), with);
    at += with.size();
  }
}

// Whether resolve() takes the name.
bool is_listable(const std::string& name) {
  return name.size() <= AdapterDirectory::kMaxNameBytes && is_valid_utf8(name) &&
         std::ranges::none_of(name, is_control);
}

}  // namespace

AdapterDirectory::AdapterDirectory(const std::optional<fs::path>& directory,
                                   const std::string& default_name,
                                   const std::vector<fs::path>& further_roots)
    : default_name_(default_name) {
  if (!directory) return;
  bounds_ = FileBounds({*directory}, "--adapter-dir");
  root_ = bounds_.roots().front();
  bounds_.add(FileBounds(further_roots, "--adapter-root"));
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
  if (error) unknown(name, kNoSuchAdapter);
  if (found == *root_ || bounds_.root_of(found) == nullptr) {
    bad_name(name, "does not lie below the adapter directory; move or copy it there");
  }
  if (!adapter_time(found, bounds_)) {
    unknown(name, "is no adapter: its folder has no adapter_config.json");
  }
  return found;
}

std::string AdapterDirectory::resolve(std::string_view name) const {
  check_name(name);
  std::optional<std::string> aliased;
  {
    const std::lock_guard lock(mutex_);
    if (const auto alias = aliases_.find(name); alias != aliases_.end()) aliased = alias->second;
  }
  if (aliased && !has_folder(name)) return *aliased;
  check_parts(name);
  return locate(name, fs::path(name)).string();
}

void AdapterDirectory::fail_as_unknown(std::string_view name) {
  check_name(name);
  check_parts(name);
  unknown(name, kNoSuchAdapter);
}

bool AdapterDirectory::has_folder(std::string_view name) const {
  try {
    check_parts(name);
    locate(name, fs::path(name));
    return true;
  } catch (const ApiError&) {
    return false;
  }
}

std::string AdapterDirectory::add_alias(const std::string& name, const std::string& path,
                                        bool replace) {
  check_name(name);
  check_name(path);
  if (has_folder(name)) {
    refuse("lora_name",
           fmt::format("'{}' is an adapter's path below the adapter directory; choose another name",
                       printable(name)));
  }
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

// Folders within adapters, too. A folder is entered once, however many links lead to it, and by its
// own path where that is below the directory: links come last.
std::vector<AdapterDirectory::Entry> AdapterDirectory::scan() const {
  std::vector<Entry> found;
  std::set<fs::path> seen = {*root_};
  std::vector<fs::path> folders = {*root_};
  std::vector<fs::path> links;
  while (!folders.empty() || !links.empty()) {
    std::vector<fs::path>& from = folders.empty() ? links : folders;
    const fs::path folder = std::move(from.back());
    from.pop_back();
    const fs::path name = folder.lexically_relative(*root_);
    if (folder != *root_) {
      std::error_code error;
      const fs::path path = fs::canonical(folder, error);
      if (error || path == *root_ || bounds_.root_of(path) == nullptr ||
          !is_listable(name.string())) {
        continue;
      }
      const bool is_new = seen.insert(path).second;
      if (const std::optional<int64_t> time = adapter_time(path, bounds_)) {
        found.push_back({name.string(), path.string(), *time});
      }
      if (!is_new || std::distance(name.begin(), name.end()) >= kMaxDepth) continue;
    }
    std::error_code error;
    for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
         entry.increment(error)) {
      std::error_code vanished;
      if (!entry->is_directory(vanished)) continue;
      (entry->is_symlink(vanished) ? links : folders).push_back(entry->path());
    }
  }
  return found;
}

std::vector<AdapterDirectory::Entry> AdapterDirectory::list() const {
  std::map<std::string, std::string, std::less<>> aliases;
  {
    const std::lock_guard lock(mutex_);
    const auto now = std::chrono::steady_clock::now();
    if (listed_at_ && now - *listed_at_ < kListAge) return listed_;
    aliases = aliases_;
  }
  // Without the lock: a directory may be long, or hang, and other requests need its names.
  std::vector<Entry> entries;
  if (root_) entries = scan();
  std::ranges::sort(entries, {}, &Entry::name);
  const size_t folders = entries.size();
  for (const auto& [name, path] : aliases) {
    const auto end = entries.begin() + static_cast<ptrdiff_t>(folders);
    const auto same = std::lower_bound(
        entries.begin(), end, name,
        [](const Entry& entry, const std::string& other) { return entry.name < other; });
    if (same != end && same->name == name) continue;
    entries.push_back({name, path, adapter_time(path, bounds_).value_or(0)});
  }
  std::ranges::sort(entries, {}, &Entry::name);
  const std::lock_guard lock(mutex_);
  listed_ = entries;
  // Not if a name has come or gone meanwhile.
  if (aliases == aliases_) listed_at_ = std::chrono::steady_clock::now();
  return entries;
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
  const bool is_linked = root_ && !is_below(fs::path(id), *root_);
  const std::lock_guard lock(mutex_);
  for (const auto& [name, path] : aliases_) {
    if (path == id) return name;
  }
  for (const Entry& entry : listed_) {
    if (is_linked && entry.path == id) return entry.name;
  }
  return folder_of(id);
}

std::string AdapterDirectory::folder_of(std::string_view id) const {
  const fs::path path(id);
  const fs::path* root = bounds_.root_of(path);
  if (root == nullptr) return std::string(id);
  return (path == *root ? path.filename() : path.lexically_relative(*root)).string();
}

std::string AdapterDirectory::without_roots(std::string message) const {
  for (const fs::path& root : bounds_.roots()) {
    replace_all(message, root.string() + "/", "");
    replace_all(message, root.string(), root.filename().string());
  }
  return message;
}

}  // namespace lorax
