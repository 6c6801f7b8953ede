// The adapters that clients may name: folders below one directory, and aliases of them that are
// given at run time. An alias hides no folder: where there are both, the name is the folder's.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/folder.h"

namespace lorax {

// Thread-safe.
class AdapterDirectory {
 public:
  static constexpr size_t kMaxNameBytes = 255;
  static constexpr int kMaxDepth = 8;  // folders in a name

  // Without a directory there are no adapters. `default_name`: of requests that name none; "" is
  // the base model. `further_roots`: directories that links below the first one may lead to. Throws
  // Error if a directory is none, or the adapter is not there.
  explicit AdapterDirectory(const std::optional<std::filesystem::path>& directory,
                            const std::string& default_name = {},
                            const std::vector<std::filesystem::path>& further_roots = {});

  // Where all files of adapters lie: below the directory or one of the further roots.
  const FileBounds& bounds() const { return bounds_; }

  const std::string& default_name() const { return default_name_; }

  // The store's id of an adapter: its folder's canonical path. `name` is an alias or a path below
  // the directory, such as "pirate" or "team/pirate". Throws ApiError: kValidation for a name that
  // can be none (empty parts, "..", an absolute path, control characters, links that leave the
  // directory and the further roots), kUnknownModel if there is nothing of this name.
  std::string resolve(std::string_view name) const;
  // Throws what resolve() throws for a name that can be an adapter's and is none's.
  [[noreturn]] static void fail_as_unknown(std::string_view name);

  // Adds a name for the folder `path`: relative to the directory, or absolute but within bounds().
  // Throws ApiError: kValidation if the name is taken, also by a folder, or one of the two can be
  // none, kUnknownModel if no adapter is there. Returns the store's id.
  std::string add_alias(const std::string& name, const std::string& path, bool replace);
  // Returns the store's id; throws ApiError kUnknownModel if there is no such alias.
  std::string remove_alias(const std::string& name);

  struct Entry {
    std::string name;
    std::string path;     // the store's id
    int64_t created = 0;  // seconds since 1970: when its config was last written
  };
  // Every folder that holds an adapter, and links to such; what is below a link only if no other
  // path leads there. Also all aliases. Each name once, sorted; at most a second old.
  std::vector<Entry> list() const;

  // What to call a store's id in messages, metrics and headers: an alias of it, or its path below
  // the directory; for a merged adapter those of its members, joined by commas. Never an absolute
  // path of a folder within bounds().
  std::string name_of(std::string_view id) const;
  // The folder of a store's id, as name_of() calls one without an alias.
  std::string folder_of(std::string_view id) const;
  // A message with paths within bounds() as seen from their roots, for clients.
  std::string without_roots(std::string message) const;

 private:
  // The canonical path of a relative or absolute path that leads to an adapter. Throws ApiError.
  std::filesystem::path locate(std::string_view name, const std::filesystem::path& path) const;
  bool has_folder(std::string_view name) const;
  std::vector<Entry> scan() const;

  std::optional<std::filesystem::path> root_;
  FileBounds bounds_ = {{}, ""};
  std::string default_name_;
  mutable std::mutex mutex_;
  std::map<std::string, std::string, std::less<>> aliases_;  // name to path; guarded by mutex_
  mutable std::vector<Entry> listed_;                        // guarded by mutex_
  mutable std::optional<std::chrono::steady_clock::time_point> listed_at_;
};

}  // namespace lorax
