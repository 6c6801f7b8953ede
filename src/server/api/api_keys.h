// The API keys of a server and whose they are: that of --api-key, and those of a file.
//
// The file is JSON:
//
//   {"keys": [{"name": "alice", "key": "...", "adapters": ["pirate", "team/*"],
//              "max_concurrent_requests": 8, "max_tokens_per_minute": 60000},
//             {"name": "bob", "key_sha256": "64 hexadecimal digits"}]}
//
// `name` (letters, digits, '.', '_' and '-') and one of `key` and `key_sha256` must be there; the
// rest are limits. No two keys share a name or a key. docs/api.md
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "server/api/tenant.h"

namespace lorax {

// Thread-safe. Keys are held as their SHA-256, and stand in no message.
class ApiKeys {
 public:
  // With a key, or "" for none, whose tenant has no name, sees everything and has no limits. Throws
  // Error for a key that no header can hold.
  explicit ApiKeys(std::string_view key = {});

  // Takes the file's keys in place of those of the last one. What a tenant has under way and has
  // spent goes on under its name. Returns how many keys there are. Throws Error of one line, and
  // all stays as it was, if anything in the file is wrong.
  size_t load(const std::filesystem::path& file);

  // Without keys every client may do everything.
  bool empty() const;
  // Null if it is nobody's. Takes the same time for all keys of equal length.
  std::shared_ptr<const Tenant> find(std::string_view key) const;

 private:
  using Digest = std::array<uint8_t, 32>;
  struct Entry {
    Digest digest;
    std::shared_ptr<const Tenant> tenant;
  };
  class FileReader;

  std::vector<Entry> fixed_;
  mutable std::mutex mutex_;
  std::shared_ptr<const std::vector<Entry>> entries_;  // fixed_ and the file's; guarded by mutex_
};

}  // namespace lorax
